"""`python -m healer` is `kpo-healer`."""

from healer.cli import program

if __name__ == "__main__":
    program()

"""The parts of the documentation that are made from the code; `python -m tests.docs` writes them anew."""

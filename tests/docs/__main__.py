"""`python -m tests.docs`: writes the generated parts of the documentation."""

from tests.docs.generated import write

write()

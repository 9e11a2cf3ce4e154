"""`users2.py USERS`: makes the roles of Airflow 2 and the lab's users, all in one process.

The command line takes 7 s for each. USERS is JSON, `[[user, role], ...]`; the password is the user's name.
"""

from __future__ import annotations

import json
import sys

from airflow.www.app import create_app
from werkzeug.security import generate_password_hash

CHEAP = "pbkdf2:sha256:1000"
"""Few rounds: basic auth hashes for every request, and the lab asks often."""


def main() -> None:
    app = create_app()
    with app.app_context():
        manager = app.appbuilder.sm
        manager.sync_roles()
        for name, role in json.loads(sys.argv[1]):
            hashed = generate_password_hash(name, method=CHEAP)
            mail = f"{name}@example.com"
            made = manager.add_user(name, name, "Lab", mail, manager.find_role(role), hashed_password=hashed)
            if not made:
                raise SystemExit(f"no user {name}")


if __name__ == "__main__":
    main()

"""Runs in Airflow's own environment: reads {"role", "life", "forged"}, writes a token as this Airflow signs them.

`life` is in seconds from now on, negative for one that has expired; `forged`: with another secret.
"""

import json
import sys
import time

import jwt
from airflow.configuration import conf

asked = json.load(sys.stdin)
now = int(time.time())
claims = {"sub": "viewer", "role": asked["role"], "aud": "apache-airflow", "iat": now - 7200, "nbf": now - 7200}
secret = "another secret, " * 5 if asked["forged"] else conf.get("api_auth", "jwt_secret")
print("TOKEN", jwt.encode(claims | {"exp": now + asked["life"]}, secret, algorithm="HS512"))

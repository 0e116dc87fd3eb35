# Publishes as a Django or FastAPI application does, with redis-py: one message for each line of standard input.
import json
import os
import sys

import redis

client = redis.Redis.from_url(os.environ["REDIS_URL"])
for line in sys.stdin:
    client.publish("dashboard_updates", json.dumps({"from": "python", "text": line.rstrip("\n"), "value": 1.5}))

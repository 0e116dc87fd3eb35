"""A Kafka of a test's own: librdkafka's mock cluster in a process of its own, whose brokers go away and come back.

Needs cargo, which builds the process: it is a part of tests/kafka_bus.rs.
"""

import os
import subprocess
from contextlib import contextmanager

from stage import ROOT

BROKERS = 3
TOPIC = "fanfare"
PROCESS = ["cargo", "test", "-q", "--features", "kafka", "--test", "kafka_bus", "support::mock_kafka::serve", "--",
           "--exact", "--ignored", "--nocapture"]


class Kafka:
    """A cluster with the topic of a bus. Its trouble is that the leader goes away; what the topic keeps stays."""

    def __init__(self):
        environment = {**os.environ, "MOCK_KAFKA_BROKERS": str(BROKERS)}
        self.process = subprocess.Popen(PROCESS, cwd=ROOT, env=environment, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = "kafka://" + self.read("brokers=")
        self.tell(f"topic {TOPIC} 1 {BROKERS}")
        self.leader = 1
        self.tell(f"leader {TOPIC} {self.leader}")

    def read(self, beginning):
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        raise SystemExit("the mock cluster ended")

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        if (outcome := self.read("outcome=")) != "Ok(())":
            raise SystemExit(f"the mock cluster: {command}: {outcome}")

    def kill(self):
        """Ends the connections of the leader, and refuses others, until it starts again. Another broker leads."""
        self.down = self.leader
        self.tell(f"down {self.down}")
        self.leader = self.leader % BROKERS + 1
        self.tell(f"leader {TOPIC} {self.leader}")

    def start(self):
        self.tell(f"up {self.down}")

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


@contextmanager
def kafka():
    cluster = Kafka()
    try:
        yield cluster
    finally:
        cluster.end()

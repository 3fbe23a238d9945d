"""Ask a RabbitMQ topic exchange which topics its patterns match, and write its answers down.

The answers lie beside this script, in ``rabbitmq_topics.json``, so that the tests need no broker.
To observe them anew, start a RabbitMQ, install its client (``pip install pika``) and run::

    python tests/clients/observe_rabbitmq.py amqp://guest:guest@127.0.0.1:5672/

Each pattern binds a queue of its own, each topic is published once, and what a queue then holds
is what its pattern matches.
"""

import itertools
import json
import random
import sys
from pathlib import Path

import pika  # type: ignore[import-not-found, import-untyped, unused-ignore]

ANSWERS = Path(__file__).with_name("rabbitmq_topics.json")
EXCHANGE = "pgbus.observed"
MOST_HASHES = 6
# Words that contain each other, differ in case alone, or hold what a regular expression minds.
WORDS = ("a", "b", "ab", "A", "a-b", "a_b", "1", "-")


def topics() -> list[str]:
    """Every topic of up to five words from {a, b}, and longer ones of odder words."""
    plain = [
        ".".join(words)
        for length in range(1, 6)
        for words in itertools.product("ab", repeat=length)
    ]
    odd = random.Random(1)
    return list(
        dict.fromkeys(
            [
                *plain,
                *WORDS,
                *(".".join(odd.choices("ab", k=odd.randint(6, 9))) for _ in range(15)),
                *(".".join(odd.choices(WORDS, k=odd.randint(2, 6))) for _ in range(35)),
            ]
        )
    )


def patterns() -> list[str]:
    """Every pattern of up to four words from {a, b, *, #}, and longer ones full of wildcards."""
    plain = [
        ".".join(words)
        for length in range(1, 5)
        for words in itertools.product("ab*#", repeat=length)
    ]
    odd = random.Random(2)
    long = [".".join(odd.choices("ab*#", [2, 2, 2, 4], k=odd.randint(5, 9))) for _ in range(300)]
    wordy = [".".join(odd.choices((*WORDS, "*", "#"), k=odd.randint(1, 5))) for _ in range(100)]
    return [
        pattern
        for pattern in dict.fromkeys([*plain, *long, *wordy])
        if sum(1 for word, _ in itertools.groupby(pattern.split(".")) if word == "#") <= MOST_HASHES
    ]


def observe(url: str) -> dict[str, object]:
    """Return the broker's name, the topics, and for each pattern a 0 or a 1 for each topic."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(EXCHANGE, "topic", auto_delete=True)
    asked, published = patterns(), topics()
    queues: dict[str, str] = {}
    for pattern in asked:
        queues[pattern] = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queues[pattern], EXCHANGE, routing_key=pattern)
    for topic in published:
        channel.basic_publish(EXCHANGE, topic, topic.encode())
    answers: dict[str, str] = {}
    for pattern in asked:
        matched = set()
        while True:
            method, _, body = channel.basic_get(queues[pattern], auto_ack=True)
            if method is None:
                break
            matched.add(body.decode())
        answers[pattern] = "".join("1" if topic in matched else "0" for topic in published)
    broker = connection._impl.server_properties
    connection.close()
    return {
        "broker": f"{broker['product']} {broker['version']}",
        "topics": published,
        "answers": answers,
    }


def main() -> None:
    """Observe the broker of the first argument."""
    found = observe(sys.argv[1])
    ANSWERS.write_text(json.dumps(found, indent=0) + "\n")
    print(f"{found['broker']}: {len(ANSWERS.read_bytes())} bytes in {ANSWERS.name}")


if __name__ == "__main__":
    main()

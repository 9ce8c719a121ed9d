"""What is shown of a URL."""

from __future__ import annotations

import pytest

from antiphon.broker.naming import shown


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("nats://user:secret@host:4222", "nats://host:4222"),
        ("redis://:sec/ret@host/0", "redis://host/0"),
        ("amqp://user:sec#ret@host/", "amqp://host/"),
        ("amqp://user:sec?ret@host/vhost", "amqp://host/vhost"),
        ("amqp://user:sec@ret@host/", "amqp://host/"),
        ("nats://u:secret@one,nats://u:secret@two", "nats://two"),
        ("kafka://u:p@one:1,two:2?sasl=PLAIN&x=secret", "kafka://one:1,two:2"),
        ("user:secret@host", "host"),
        ("folder:///data/me@home/in?x=1", "folder:///data/me@home/in"),
        ("sqs://eu-west-1?order=none", "sqs://eu-west-1"),
        ("", ""),
    ],
)
def test_no_password_is_shown(url: str, seen: str) -> None:
    """However it is written, also where it should have been written otherwise."""
    assert shown(url) == seen

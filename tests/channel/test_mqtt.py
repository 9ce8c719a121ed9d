"""What is MQTT's own: topics that are matched by filters, and sessions that outlive what was declared."""

from __future__ import annotations

import paho.mqtt.client as paho
import pytest

from antiphon import App, Event, Service
from antiphon.channel.mqtt import ChannelSource
from antiphon.runtime.clock import SystemClock
from tests.channel.kit import Got

pytestmark = pytest.mark.anyio


class Other(Event):
    """Of another place."""


@pytest.mark.parametrize(
    ("topic", "place"),
    [("plants/1/heat", "plants/+/heat"), ("shared/a/b", "$share/group/shared/#"), ("old/topic", None)],
)
async def test_a_topic_has_its_place(topic: str, place: str | None) -> None:
    """Also by a subscription that is shared. What the session still has subscribed to, and nobody declares any more, is
    set aside instead of ending the channel again and again."""
    inbound = {"plants/+/heat": Got, "$share/group/shared/#": Other}
    source = ChannelSource(
        App(Service("here"), name="mqtt_test").channel("mqtt://127.0.0.1", name="up", inbound=inbound), SystemClock()
    )
    message = paho.MQTTMessage(mid=1, topic=topic.encode())
    message.payload = b"{}"
    source._came.put_nowait(message)
    (found,) = await source.receive(10)
    assert found.headers == {"topic": topic}
    assert (found.topic, found.problem) == (
        (place, None) if place else ("plants/+/heat", "no place is declared for the topic 'old/topic'")
    )

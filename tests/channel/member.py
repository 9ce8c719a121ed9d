"""An app between two foreign systems, in a process of its own: ``antiphon run tests.channel.member:app``."""

import json
import os

from tests.channel.kit import relay_app

app = relay_app(**json.loads(os.environ["RELAY"]))

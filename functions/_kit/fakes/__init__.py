"""In-memory stand-ins of the ports, each held to the same tests as the real server.

Each has a switch `sick`: while it is set, every call that needs the server raises `Unavailable`,
as when it is gone, and `healthy` says so.
"""

from functions._kit.fakes.alerts import FakeAlertStore
from functions._kit.fakes.audio import FakeAudioConverter
from functions._kit.fakes.clients import FakeClientStore
from functions._kit.fakes.deadletters import FakeDeadLetters
from functions._kit.fakes.figures import FakeFigures
from functions._kit.fakes.inference import FakeInference
from functions._kit.fakes.keyvalue import FakeKeyValue
from functions._kit.fakes.language import FakeLanguageModel
from functions._kit.fakes.metrics import FakeMetrics
from functions._kit.fakes.objects import FakeObjects
from functions._kit.fakes.pictures import FakePictureDecoder
from functions._kit.fakes.stream import FakeStream
from functions._kit.fakes.tally import FakeTally
from functions._kit.fakes.tasks import FakeTaskStore

__all__ = [
    "FakeAlertStore",
    "FakeAudioConverter",
    "FakeClientStore",
    "FakeDeadLetters",
    "FakeFigures",
    "FakeInference",
    "FakeKeyValue",
    "FakeLanguageModel",
    "FakeMetrics",
    "FakeObjects",
    "FakePictureDecoder",
    "FakeStream",
    "FakeTally",
    "FakeTaskStore",
]

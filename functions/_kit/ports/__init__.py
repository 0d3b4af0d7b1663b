"""What a function may ask for. The gateway hands in real servers, tests the fakes.

Every method raises `Unavailable` when its server cannot be reached, and nothing else for that.
"""

from functions._kit.ports.alerts import AlertFilter, AlertPage, AlertStore, HourCount
from functions._kit.ports.audio import (
    AUDIO_TYPES,
    SPEECH,
    AudioConverter,
    AudioFormat,
    AudioTarget,
    AudioTooLong,
    ConversionFigures,
    Sound,
)
from functions._kit.ports.clients import Client, ClientStore, TokenIssuer
from functions._kit.ports.inference import (
    Inference,
    ModelServer,
    ModelVersion,
    ServedModel,
    TensorSpec,
    VersionState,
    VersionStatistics,
)
from functions._kit.ports.language import (
    LanguageModel,
    LanguageModelError,
    LanguageModelUsage,
    Turns,
)
from functions._kit.ports.objects import ObjectInfo, Objects
from functions._kit.ports.operations import (
    METRICS_MEDIA_TYPE,
    Figures,
    Limits,
    Metrics,
    Probes,
    ProcessFigures,
    Tally,
    TranscriptionFigures,
    Usage,
)
from functions._kit.ports.pictures import PictureDecoder
from functions._kit.ports.stream import (
    DeadLetters,
    Entry,
    KeyValue,
    Letter,
    Receipt,
    Record,
    Stream,
)
from functions._kit.ports.tasks import Page, TaskStore, Unheard

__all__ = [
    "AUDIO_TYPES",
    "METRICS_MEDIA_TYPE",
    "SPEECH",
    "AlertFilter",
    "AlertPage",
    "AlertStore",
    "AudioConverter",
    "AudioFormat",
    "AudioTarget",
    "AudioTooLong",
    "Client",
    "ClientStore",
    "ConversionFigures",
    "DeadLetters",
    "Entry",
    "Figures",
    "HourCount",
    "Inference",
    "KeyValue",
    "LanguageModel",
    "LanguageModelError",
    "LanguageModelUsage",
    "Letter",
    "Limits",
    "Metrics",
    "ModelServer",
    "ModelVersion",
    "ObjectInfo",
    "Objects",
    "Page",
    "PictureDecoder",
    "Probes",
    "ProcessFigures",
    "Receipt",
    "Record",
    "ServedModel",
    "Sound",
    "Stream",
    "Tally",
    "TaskStore",
    "TensorSpec",
    "TokenIssuer",
    "TranscriptionFigures",
    "Turns",
    "Unheard",
    "Usage",
    "VersionState",
    "VersionStatistics",
]

"""Encode a volume once, then ask again and again: paint some slices, get the rest, correct, get it anew.

`encode_volume` is the slow part. `build_support` and `segment_encoded` work on its features alone, so a new or
corrected annotation gives new masks without another pass through the encoder.
"""

from fedcowpro.interactive.annotation import Annotation
from fedcowpro.interactive.encoded import Cancelled, EncodedVolume, PreparedVolume, encode_volume, prepare_volume
from fedcowpro.interactive.segmentation import Segmentation, segment_encoded
from fedcowpro.interactive.support import Example, Support, build_support, encode_example, join_examples

__all__ = [
    "Annotation",
    "Cancelled",
    "EncodedVolume",
    "Example",
    "PreparedVolume",
    "Segmentation",
    "Support",
    "build_support",
    "encode_example",
    "encode_volume",
    "join_examples",
    "prepare_volume",
    "segment_encoded",
]

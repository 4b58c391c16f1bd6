"""Streaming audio files for those who ask over HTTP or in another vendor's messages: samples in, bytes of one format out."""

from realtime.encoders.encoder import Encoder, FormatRefused, FormatUnavailable, Samples
from realtime.encoders.formats import FormatInfo, encoder_for, formats, nearest_bitrate, whole_file
from realtime.encoders.ogg_opus import OggOpus

__all__ = [
    "Encoder",
    "FormatInfo",
    "FormatRefused",
    "FormatUnavailable",
    "OggOpus",
    "Samples",
    "encoder_for",
    "formats",
    "nearest_bitrate",
    "whole_file",
]

"""What a server tells of itself: metrics for Prometheus, traces for OpenTelemetry, logs with request ids."""

from rcjax.serving.telemetry.catalogue import METRICS as METRICS
from rcjax.serving.telemetry.logs import console_for as console_for
from rcjax.serving.telemetry.logs import logging_as as logging_as
from rcjax.serving.telemetry.telemetry import Telemetry as Telemetry
from rcjax.serving.telemetry.telemetry import telemetry_of as telemetry_of

"""Messages of the streams of rcjax.v1 to and from the engine's values."""

import math

from rcjax.errors import InvalidRequestError
from rcjax.request import GeneratedPiece, GenerateRequest, GenerateResult
from rcjax.serving import codec
from rcjax.serving.v1 import rcjax_pb2

DEFAULT_NEW_TOKENS = GenerateRequest("").max_new_tokens
MAX_REQUEST_ID_BYTES = 256


def generate_to_message(request: GenerateRequest) -> rcjax_pb2.GenerateRequest:
    message = rcjax_pb2.GenerateRequest(
        max_new_tokens=request.max_new_tokens, temperature=request.temperature, seed=request.seed
    )
    if isinstance(request.prompt, str):
        message.text = request.prompt
    else:
        message.request.CopyFrom(codec.request_to_message(request.prompt))
    return message


def generate_from_message(message: rcjax_pb2.GenerateRequest, tenant: str) -> GenerateRequest:
    """As `codec.request_from_message`; raises `InvalidRequestError` where there is neither a text nor a request."""
    kind = message.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequestError("there is no prompt: set text or request", field="text")
    return GenerateRequest(
        message.text if kind == "text" else codec.request_from_message(message.request, tenant),
        max_new_tokens=message.max_new_tokens or DEFAULT_NEW_TOKENS,
        temperature=message.temperature,
        seed=message.seed,
    )


def part_to_message(part: GeneratedPiece | GenerateResult) -> rcjax_pb2.GenerateResponse:
    if isinstance(part, GeneratedPiece):
        return rcjax_pb2.GenerateResponse(piece=rcjax_pb2.GeneratedPiece(token_ids=part.token_ids, text=part.text))
    reasons = rcjax_pb2.GenerateEnd.FinishReason
    end = rcjax_pb2.GenerateEnd(
        finish_reason=reasons.STOP if part.is_complete else reasons.LENGTH,
        num_new_tokens=part.num_new_tokens,
        tokens=codec.tokens_to_message(part.tokens),
        ttft_ms=part.ttft_ms,
        total_ms=part.total_ms,
        slice_index=part.slice_index,
    )
    return rcjax_pb2.GenerateResponse(end=end)


def part_from_message(message: rcjax_pb2.GenerateResponse) -> GeneratedPiece | GenerateResult:
    if message.WhichOneof("event") == "piece":
        return GeneratedPiece(tuple(message.piece.token_ids), message.piece.text)
    end = message.end
    return GenerateResult(
        num_new_tokens=end.num_new_tokens,
        is_complete=end.finish_reason == rcjax_pb2.GenerateEnd.FinishReason.STOP,
        tokens=codec.tokens_from_message(end.tokens),
        ttft_ms=end.ttft_ms,
        total_ms=end.total_ms,
        slice_index=end.slice_index,
    )


def entry_deadline(message: rcjax_pb2.RecommendStreamRequest, now_s: float, stream_s: float | None) -> float | None:
    """Until when an entry's caller waits for it, within the stream's own deadline; refuses what makes no sense."""
    if len(message.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        problem = f"request_id has {len(message.request_id.encode())} bytes, over the limit of {MAX_REQUEST_ID_BYTES}"
        raise InvalidRequestError(problem, field="request_id")
    if not 0 <= message.timeout_s < math.inf:
        problem = f"timeout_s is {message.timeout_s}, not a finite number from 0"
        raise InvalidRequestError(problem, field="timeout_s")
    if not message.timeout_s:
        return stream_s
    own_s = now_s + message.timeout_s
    return own_s if stream_s is None else min(own_s, stream_s)

"""KServe's service inference.GRPCInferenceService: a prompt and an answer as tensors."""

import struct
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec

from gateway.errors import ApiError, invalid
from gateway.grpc_calls import Answered, GrpcCalls
from gateway.grpc_errors import abort
from wire.gen import open_inference_pb2 as pb
from wire.gen import open_inference_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
TEXT_INPUT = "text_input"
IDS_INPUT = "input_ids"
TEXT_OUTPUT = "text_output"
IDS_OUTPUT = "output_ids"
_SWITCHES = ("stream", "streaming")
_INTEGERS = {"INT32": ("int_contents", "i"), "INT64": ("int64_contents", "q")}
# A parameter holds no list or object: those fields are given as JSON in a string.
_JSON_FIELDS = frozenset(
    (
        *("logit_bias", "stop_token_ids", "response_format", "structured_outputs"),
        *("guided_json", "guided_choice", "metadata", "stream_options"),
    )
)


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Parameters of a request are the fields of /v1/completions by their names."""

    def __init__(self, calls: GrpcCalls, version: str) -> None:
        self._calls = calls
        self._version = version

    @property
    def _model(self) -> str:
        return self._calls.services.model.name

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Any
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Any
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name == self._model and self._is_ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="baton", version=self._version)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        try:
            self._calls.check_key(context)
            if request.name != self._model:
                message = f"the model {request.name!r} does not exist"
                raise ApiError(404, message, code="model_not_found", param="name")
        except ApiError as error:
            await abort(context, error)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=self._model,
            versions=[""],
            platform="baton",
            inputs=[
                tensor(name=TEXT_INPUT, datatype="BYTES", shape=[1]),
                tensor(name=IDS_INPUT, datatype="INT64", shape=[-1]),
            ],
            outputs=[
                tensor(name=TEXT_OUTPUT, datatype="BYTES", shape=[-1]),
                tensor(name=IDS_OUTPUT, datatype="INT64", shape=[-1]),
            ],
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        """The whole answer at once: each choice is an element of text_output."""
        texts: dict[int, str] = {}
        ids: list[int] = []
        last: list[Answered] = []
        reasons: dict[int, str] = {}

        async def gather(answered: Answered) -> None:
            for index, text, reason, details, _ in answered.pieces:
                texts[index] = texts.get(index, "") + text
                reasons[index] = reason or ""
                if details is not None:
                    ids.extend(details.tokens)
            last[:] = [answered]

        await self._calls.run("grpc_infer", context, lambda: _fields(request), gather)
        return _response(
            request,
            [texts[index] for index in sorted(texts)],
            [reasons[index] for index in sorted(texts)],
            ids,
            last[0],
        )

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> None:
        """One request behind the other; one that fails is told, and the next one goes on."""
        async for request in requests:

            async def write(answered: Answered, of: pb.ModelInferRequest = request) -> None:
                for message in _stream_messages(of, answered):
                    await context.write(message)

            try:
                await self._calls.answer(
                    "grpc_stream_infer", context, partial(_fields, request), write
                )
            except ApiError as error:
                if error.status == 401:
                    await abort(context, error)
                answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                answer.parameters["error_code"].string_param = error.code or "invalid_request"
                await context.write(
                    pb.ModelStreamInferResponse(error_message=error.message, infer_response=answer)
                )

    @property
    def _is_ready(self) -> bool:
        return self._calls.services.source.snapshot().is_ready


def _stream_messages(
    request: pb.ModelInferRequest, answered: Answered
) -> list[pb.ModelStreamInferResponse]:
    """A message for each answer that goes on; the index tells which, where there are several."""
    messages = []
    for number, (index, text, reason, details, _) in enumerate(answered.pieces, 1):
        is_final = answered.is_last and number == len(answered.pieces)
        ids = [] if details is None else details.tokens
        response = _response(request, [text], [reason or ""], ids, answered, is_final=is_final)
        if len(answered.prepared.requests) > 1:
            response.parameters["index"].int64_param = index
        messages.append(pb.ModelStreamInferResponse(infer_response=response))
    return messages


def _response(
    request: pb.ModelInferRequest,
    texts: list[str],
    reasons: list[str],
    ids: list[int],
    answered: Answered,
    *,
    is_final: bool = True,
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    output = response.outputs.add(name=TEXT_OUTPUT, datatype="BYTES", shape=[len(texts)])
    output.contents.bytes_contents.extend(text.encode() for text in texts)
    if answered.prepared.return_token_ids:
        output = response.outputs.add(name=IDS_OUTPUT, datatype="INT64", shape=[len(ids)])
        output.contents.int64_contents.extend(ids)
    if any(reasons):
        response.parameters["finish_reason"].string_param = ",".join(reasons)
    response.parameters["triton_final_response"].bool_param = is_final
    if is_final:
        answers = answered.answers
        response.parameters["prompt_tokens"].int64_param = answers.num_prompt_tokens
        response.parameters["cached_tokens"].int64_param = answers.num_cached_tokens
        response.parameters["completion_tokens"].int64_param = answers.num_output_tokens
    return response


def _fields(request: pb.ModelInferRequest) -> dict[str, object]:
    """The fields of a completion's body. Raises ApiError 400 that names the input or parameter."""
    if request.model_version:
        raise invalid("there are no versions of a model: leave it empty", "model_version")
    fields: dict[str, object] = {"model": request.model_name, "prompt": _prompt(request)}
    for name, parameter in request.parameters.items():
        if name in fields:
            raise invalid(f"{name} is no parameter here", name, "unknown_field")
        fields[name] = _value(name, parameter)
    return fields


def _prompt(request: pb.ModelInferRequest) -> object:
    """What text_input or input_ids hold. Inputs that switch streaming on are taken as said by the
    call itself."""
    prompts = [
        (tensor, request.raw_input_contents[at] if request.raw_input_contents else None)
        for at, tensor in enumerate(request.inputs)
        if tensor.name not in _SWITCHES
    ]
    if len(prompts) != 1:
        raise invalid(f"one input is needed, {TEXT_INPUT} or {IDS_INPUT}", "inputs")
    tensor, raw = prompts[0]
    if tensor.name == TEXT_INPUT:
        return _text(tensor, raw)
    if tensor.name == IDS_INPUT:
        return _ids(tensor, raw)
    raise invalid(f"the input {tensor.name!r} is not known", tensor.name, "unknown_field")


def _text(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> object:
    """Raw strings have their length before them, as a little-endian uint32."""
    if tensor.datatype != "BYTES":
        raise _wrong_type(tensor, "BYTES")
    found = list(tensor.contents.bytes_contents)
    if raw is not None:
        (length,) = struct.unpack_from("<I", raw) if len(raw) >= 4 else (-1,)
        found = [raw[4:]] if length == len(raw) - 4 else []
    if len(found) != 1:
        raise invalid(f"{TEXT_INPUT} must hold one string, holds {len(found)}", TEXT_INPUT)
    try:
        return found[0].decode()
    except UnicodeDecodeError as error:
        raise invalid(f"{TEXT_INPUT} is no UTF-8: {error}", TEXT_INPUT) from error


def _ids(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> object:
    if tensor.datatype not in _INTEGERS:
        raise _wrong_type(tensor, " or ".join(_INTEGERS))
    field, code = _INTEGERS[tensor.datatype]
    if raw is None:
        return list(getattr(tensor.contents, field))
    size = struct.calcsize(f"<{code}")
    if len(raw) % size:
        raise invalid(f"{IDS_INPUT} has {len(raw)} bytes of {size}-byte integers", IDS_INPUT)
    return list(struct.unpack(f"<{len(raw) // size}{code}", raw))


def _wrong_type(tensor: pb.ModelInferRequest.InferInputTensor, wanted: str) -> ApiError:
    message = f"{tensor.name} must be of datatype {wanted}, is {tensor.datatype!r}"
    return invalid(message, tensor.name, "invalid_type")


def _value(name: str, parameter: pb.InferParameter) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise invalid(f"the parameter {name!r} has no value", name, "invalid_type")
    value = getattr(parameter, kind)
    if kind != "string_param" or name not in _JSON_FIELDS:
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise invalid(
            f"the parameter {name!r} is no JSON: {error}", name, "invalid_json"
        ) from error

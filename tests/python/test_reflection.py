"""A client that has never seen gemmad.proto: everything it knows comes from server reflection. And health."""
import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from support import samples


class Reflection:
    """Both versions speak the same messages under two names."""

    def __init__(self, channel, version):
        self.call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)

    def ask(self, **what):
        [answer] = self.call(iter([reflection_pb2.ServerReflectionRequest(**what)]), timeout=10)
        return answer

    def services(self):
        return [s.name for s in self.ask(list_services="").list_services_response.service]

    def pool(self, symbol):
        pool, files = descriptor_pool.DescriptorPool(), {}
        for data in self.ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            files[file.name] = file
        assert files, f"no file for {symbol}"
        for file in files.values():
            assert all(d in files for d in file.dependency)
            pool.Add(file)
        return pool


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_sample_through_reflection_alone(either, version):
    model, daemon = either
    channel = daemon.channel()
    reflection = Reflection(channel, version)
    services = reflection.services()
    assert {"gemmad.v1.Inference", "gemmad.v1.Control", "gemmad.v1.Jobs", "grpc.health.v1.Health"} <= set(services)
    pool = reflection.pool("gemmad.v1.Inference")
    method = pool.FindServiceByName("gemmad.v1.Inference").methods_by_name["Generate"]
    assert method.server_streaming and not method.client_streaming
    asked = message_factory.GetMessageClass(method.input_type)
    events = message_factory.GetMessageClass(method.output_type)
    case = samples(model, "plain")[2]
    r = asked()
    r.token_ids.ids.extend(case["prompt_token_ids"])
    r.sampling.temperature = 0
    # protobuf-c compiles text as bytes; whoever reads the descriptor must still see strings.
    assert r.DESCRIPTOR.fields_by_name["text"].type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    call = channel.unary_stream("/gemmad.v1.Inference/Generate", request_serializer=asked.SerializeToString,
                                response_deserializer=events.FromString)
    ids, text = [], ""
    for event in call(r, timeout=60):
        if event.WhichOneof("event") == "delta":
            ids += event.delta.token_ids
            text += event.delta.text
    assert ids == case["completion_token_ids"] and text == case["completion"]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_finds_files_and_messages_and_refuses_the_rest(dense, version):
    reflection = Reflection(dense.channel(), version)
    for symbol in ("gemmad.v1.GenerateRequest", "gemmad.v1.Inference.Generate", "gemmad.v1.Control",
                   "grpc.health.v1.Health"):
        reflection.pool(symbol)
    file = reflection.ask(file_by_filename="gemmad.proto").file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(file[0]).package == "gemmad.v1"
    for what in ({"file_containing_symbol": "gemmad.v1.Nothing"}, {"file_by_filename": "nothing.proto"}):
        assert reflection.ask(**what).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_health(either):
    _, daemon = either
    health = health_pb2_grpc.HealthStub(daemon.channel())
    for service in ("", "gemmad.v1.Inference"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND

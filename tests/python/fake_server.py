"""A server with gemmad's API and no model behind it, for tests of clients: it answers from the samples of a bundled
model, and misbehaves on request.

    with FakeGemmad("tiny-dense") as fake: … fake.address …

As a program it serves until it is ended:  fake_server.py SOCKET [MODEL]
"""
import concurrent.futures
import pathlib
import shutil
import sys
import tempfile
import threading

import grpc

from plain_bpe import PlainBpe
from support import MODELS, UNLIMITED, pb, rpc, samples


def chat_answer(content="", reasoning="", calls=(), reason=None, malformed=(), truncated=None):
    """What Chat answers once: a delta for each character and each call, (name, arguments) or (name, arguments, id)."""
    deltas = [pb.ChatDelta(index=0, reasoning=c, token_ids=[5]) for c in reasoning]
    deltas += [pb.ChatDelta(index=0, content=c, token_ids=[6]) for c in content]
    for i, (name, arguments, *more) in enumerate(calls):
        deltas.append(pb.ChatDelta(index=0, tool_calls=[pb.ToolCall(id=(more or [f"call_{i}"])[0], name=name, index=i)]))
        deltas.append(pb.ChatDelta(index=0, tool_calls=[pb.ToolCall(arguments_json=arguments, index=i)]))
    finished = pb.Finished(index=0, finish_reason=reason or ("tool_calls" if calls else "stop"),
                           malformed=[m if isinstance(m, str) else m.decode() for m in malformed])
    if truncated is not None:
        finished.truncated_call = truncated
    return {"deltas": deltas, "finished": finished}


class FakeGemmad(rpc.InferenceServicer, rpc.ControlServicer):
    def __init__(self, model="tiny-dense", socket=None):
        self.model = model
        self.bpe = PlainBpe(MODELS / model / "tokenizer.json")
        self.answers = {tuple(c["prompt_token_ids"]): c for c in samples(model)}
        self.dir = None if socket else pathlib.Path(tempfile.mkdtemp(prefix="gemmad-fake-"))
        self.address = f"unix:{socket or self.dir / 's'}"
        self.requests = []                  # every request, in order
        self.states = ["ready"]             # GetStatus says them one after the other, the last for ever
        self.failure = ""                   # of the one engine
        self.counts = []                    # fields of its EngineStatus, likewise
        self.fail_with = None               # (grpc.StatusCode, sentence) for every Inference rpc
        self.text = None                    # answer with this text, whatever the prompt
        self.hang_after = None              # Generate and Chat send so many deltas, then nothing
        self.cancelled = threading.Event()  # a client gave up a hanging one
        self.chat = None                    # answers of Chat, one after the other (see chat_answer); None: UNIMPLEMENTED
        self.context = 1024
        self.drained = []                   # DrainRequests
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=UNLIMITED)
        rpc.add_InferenceServicer_to_server(self, self.server)
        rpc.add_ControlServicer_to_server(self, self.server)

    def start(self):
        self.server.add_insecure_port(self.address)
        self.server.start()
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.server.stop(None).wait()
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def _take(self, request, context):
        self.requests.append(request)
        if self.fail_with:
            context.abort(*self.fail_with)
        if request.model not in ("", self.model):
            context.abort(grpc.StatusCode.NOT_FOUND, f"model is {request.model!r}, served are: {self.model}")

    def Tokenize(self, request, context):
        self._take(request, context)
        ids = [self.bpe.bos] if request.add_bos else []
        return pb.TokenizeResponse(token_ids=ids + self.bpe.encode(request.text, request.parse_special))

    def Detokenize(self, request, context):
        self._take(request, context)
        return pb.DetokenizeResponse(text=self.bpe.decode(request.token_ids, request.skip_special))

    def _prompt(self, request):
        if request.WhichOneof("prompt") == "token_ids":
            return list(request.token_ids.ids)
        ids = self.bpe.encode(request.text, request.parse_special)
        return [self.bpe.bos] + ids if request.add_bos else ids

    def Generate(self, request, context):
        self._take(request, context)
        ended = threading.Event()

        def end():
            ended.set()
            if self.hang_after is not None:
                self.cancelled.set()
        context.add_callback(end)
        prompt = self._prompt(request)
        if not prompt:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is empty")
        case = self.answers.get(tuple(prompt))
        ids = case["completion_token_ids"] if case else []
        texts = ["" if self.bpe.text_of[i] == "<turn|>" else self.bpe.decode([i]) for i in ids]
        if self.text is not None:
            texts, ids = list(self.text), [5] * len(self.text)
        seed = request.sampling.seed if request.sampling.HasField("seed") else (1 << 64) - 59
        yield pb.GenerateEvent(started=pb.Started(request_id=request.request_id or "fake-1", prompt_tokens=len(prompt),
                                                  cached_tokens=0, seed=seed))
        yield pb.GenerateEvent(progress=pb.Progress(prefilled_tokens=len(prompt), prompt_tokens=len(prompt)))
        if request.sampling.want_prompt_logprobs:
            rows = [pb.TokenLogprob(token_id=i, logprob=-0.5) for i in prompt[1:]]
            yield pb.GenerateEvent(prompt_logprobs=pb.PromptLogprobs(first_position=1, logprobs=rows))
        for n, (token_id, text) in enumerate(zip(ids, texts)):
            if n == self.hang_after:
                ended.wait(60)
                return
            delta = pb.GenerateDelta(index=0, token_ids=[token_id], text=text)
            if request.sampling.HasField("logprobs"):
                delta.logprobs.add(token_id=token_id, logprob=-0.1)
            yield pb.GenerateEvent(delta=delta)
        usage = pb.Usage(prompt_tokens=len(prompt), cached_tokens=0, completion_tokens=len(ids), reasoning_tokens=0)
        timings = pb.Timings(queue_ms=0.5, prefill_ms=20, decode_ms=10, first_token_ms=21)
        reason = "stop" if texts and not texts[-1] else "length"
        yield pb.GenerateEvent(finished=pb.Finished(index=0, finish_reason=reason, usage=usage, timings=timings))

    def _refuse_without_chat(self, context):
        if self.chat is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Chat is not available in this version")

    def _render(self, request):
        """Of user turns alone."""
        ids = [self.bpe.bos]
        for m in request.messages:
            ids += self.bpe.encode("<|turn>", True) + self.bpe.encode(m.role + "\n" + "".join(p.text for p in m.content))
            ids += self.bpe.encode("<turn|>\n", True)
        return ids + self.bpe.encode("<|turn>model\n<|channel>thought\n<channel|>", True)

    def RenderChat(self, request, context):
        self._refuse_without_chat(context)
        self._take(request, context)
        ids = self._render(request)
        return pb.RenderChatResponse(text=self.bpe.decode(ids), token_ids=ids)

    def Chat(self, request, context):
        self._refuse_without_chat(context)
        self._take(request, context)
        ended = threading.Event()

        def end():
            ended.set()
            if self.hang_after is not None:
                self.cancelled.set()
        context.add_callback(end)
        case = self.answers.get(tuple(self._render(request)))
        answer = self.chat.pop(0) if self.chat else chat_answer(case["completion"] if case else "yes")
        yield pb.ChatEvent(started=pb.Started(request_id="fake-1", prompt_tokens=20, cached_tokens=5, seed=7))
        yield pb.ChatEvent(progress=pb.Progress(prefilled_tokens=20, prompt_tokens=20))
        for n, delta in enumerate(answer["deltas"]):
            if n == self.hang_after:
                ended.wait(60)
                return
            yield pb.ChatEvent(delta=delta)
        finished = answer["finished"]
        finished.usage.CopyFrom(pb.Usage(prompt_tokens=20, cached_tokens=5, completion_tokens=len(answer["deltas"]),
                                         reasoning_tokens=sum(bool(d.reasoning) for d in answer["deltas"])))
        finished.timings.CopyFrom(pb.Timings(queue_ms=0.5, prefill_ms=20, decode_ms=10, first_token_ms=21))
        yield pb.ChatEvent(finished=finished)

    def Drain(self, request, context):
        self.drained.append(request)
        if self.fail_with:
            context.abort(*self.fail_with)
        self.states = ["draining"]
        return pb.DrainResponse()

    def ListModels(self, request, context):
        if self.fail_with:
            context.abort(*self.fail_with)
        return pb.ListModelsResponse(models=[pb.Model(name=self.model, context_tokens=self.context, vocab_size=1280,
                                                      has_tokenizer=True, end_token_ids=[1, 16, 9])])

    def GetStatus(self, request, context):
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        ranks = [pb.RankStatus(rank=i, host="here", pid=1000 + i, state=state, cpu_ms=1500, kv_bytes=1 << 20,
                               weight_bytes_read=3 << 20, isa="avx2", threads=1) for i in range(2)]
        engine = pb.EngineStatus(id=f"{self.model}/0", state=state, restarts=0, ranks=ranks, layout="tp2", steps=7)
        if self.failure:
            engine.failure = self.failure
        if self.counts:
            for name, value in (self.counts[0] if len(self.counts) == 1 else self.counts.pop(0)).items():
                setattr(engine, name, value)
        return pb.GetStatusResponse(state=state, models=[pb.ModelStatus(name=self.model, engines=[engine])],
                                    requests_running=1, requests_waiting=0, version="0.1.0")


if __name__ == "__main__":
    FakeGemmad(sys.argv[2] if len(sys.argv) > 2 else "tiny-dense", socket=sys.argv[1]).start().server.wait_for_termination()

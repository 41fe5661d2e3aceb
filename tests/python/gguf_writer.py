"""A published checkpoint folder as one GGUF file, tensors as they are: what a converter writes, by the format's description."""
import json
import struct

U32, F32, BOOL, TEXT, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TENSOR_TYPES = {"F32": (0, 4), "F16": (1, 2), "BF16": (30, 2)}
OF_MODEL = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
            "embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
            "per_layer_model_projection.weight": "per_layer_model_proj.weight",
            "per_layer_projection_norm.weight": "per_layer_proj_norm.weight"}
OF_LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "layer_scalar": "layer_output_scale",
            "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
            "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "per_layer_input_gate": "inp_gate",
            "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm"}


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def value(kind, v):
    return text(v) if kind == TEXT else struct.pack({U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}[kind], v)


def pair(key, kind, v):
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def metadata(config, tokens):
    c, layers = config["text_config"], config["text_config"]["num_hidden_layers"]
    full = [t == "full_attention" for t in c["layer_types"]]
    layer = [c["per_layer_config"].get(f"{i:02}", {}) for i in range(layers)]
    head_dim = [entry.get("head_dim", c["head_dim"]) for entry in layer]
    shared = c["num_kv_shared_layers"]
    wide = [2 if c["use_double_wide_mlp"] and i >= layers - shared else 1 for i in range(layers)]
    size = {"block_count": layers, "context_length": c["max_position_embeddings"], "embedding_length": c["hidden_size"],
            "attention.head_count": c["num_attention_heads"], "attention.key_length": head_dim[full.index(True)],
            "attention.key_length_swa": head_dim[full.index(False)], "attention.sliding_window": c["sliding_window"],
            "attention.shared_kv_layers": shared, "embedding_length_per_layer_input": c["hidden_size_per_layer_input"]}
    rope = c["rope_parameters"]
    return [pair("general.architecture", TEXT, "gemma4"),
            *(pair(f"gemma4.{k}", U32, v) for k, v in size.items()),
            pair("gemma4.feed_forward_length", I32, [c["intermediate_size"] * w for w in wide]),
            pair("gemma4.attention.head_count_kv", I32, [e.get("num_key_value_heads", c["num_key_value_heads"]) for e in layer]),
            pair("gemma4.attention.sliding_window_pattern", BOOL, [not f for f in full]),
            pair("gemma4.attention.layer_norm_rms_epsilon", F32, c["rms_norm_eps"]),
            pair("gemma4.final_logit_softcapping", F32, c["final_logit_softcapping"]),
            pair("gemma4.rope.freq_base", F32, rope["full_attention"]["rope_theta"]),
            pair("gemma4.rope.freq_base_swa", F32, rope["sliding_attention"]["rope_theta"]),
            pair("tokenizer.ggml.model", TEXT, "gemma4"), pair("tokenizer.ggml.tokens", TEXT, [t for t, _ in tokens]),
            pair("tokenizer.ggml.token_type", I32, [kind for _, kind in tokens]), pair("tokenizer.ggml.merges", TEXT, []),
            pair("tokenizer.ggml.bos_token_id", U32, c["bos_token_id"]), pair("tokenizer.ggml.eos_token_id", U32, c["eos_token_id"])]


def gguf_name(name):
    name = name.removeprefix("model.language_model.")
    if not name.startswith("layers."):
        return OF_MODEL[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{OF_LAYER[rest.removesuffix('.weight')]}.weight"


def write(path, folder):
    """The folder's model with a vocabulary of bytes and numbered tokens: it is for token ids."""
    config = json.loads((folder / "config.json").read_text())
    rope = config["text_config"]["rope_parameters"]["full_attention"]
    blob = (folder / "model.safetensors").read_bytes()
    [n] = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8:8 + n])
    header.pop("__metadata__", None)
    vocab = config["text_config"]["vocab_size"]
    tokens = [(f"<0x{i:02X}>", 6) for i in range(256)] + [(f"token {i}", 1) for i in range(256, vocab)]
    infos, data = [], b""

    def add(name, kind, shape, content):
        nonlocal data
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data)))
        data += content + bytes(-len(content) % 32)

    values = metadata(config, tokens)
    half = max(e.get("head_dim", 0) for e in config["text_config"]["per_layer_config"].values()) // 2
    rotating = int(half * rope["partial_rotary_factor"])
    add("rope_freqs.weight", 0, [half], struct.pack(f"<{half}f", *[1.0] * rotating, *[1e30] * (half - rotating)))
    for name, t in header.items():
        begin, end = t["data_offsets"]
        add(gguf_name(name), TENSOR_TYPES[t["dtype"]][0], t["shape"], blob[8 + n + begin:8 + n + end])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(values)) + b"".join(values) + b"".join(infos)
    path.write_bytes(head + bytes(-len(head) % 32) + data)

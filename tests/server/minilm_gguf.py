"""all-MiniLM-L6-v2 as a GGUF file, for llama.cpp: made from the same weights as `retrieval.minilm` computes with."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from nbruns.server.retrieval import minilm

_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def write(file: Path, layers: int = 6) -> None:
    """Write the model, or its first layers."""
    folder = minilm.weights_folder()
    assert folder is not None
    tensors = minilm._tensors(folder / "model.safetensors")
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(minilm.DIMENSION)
    writer.add_feed_forward_length(1536)
    writer.add_block_count(layers)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    words = list(minilm._vocabulary())
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    # llama.cpp marks where words begin, BERT where they go on.
    writer.add_token_list([_marked(word) for word in words])
    kinds = [
        gguf.TokenType.CONTROL if word.startswith("[") and word.endswith("]") else gguf.TokenType.NORMAL
        for word in words
    ]
    writer.add_token_types(kinds)
    for name, word in (
        ("bos", "[CLS]"),
        ("eos", "[SEP]"),
        ("unk", "[UNK]"),
        ("sep", "[SEP]"),
        ("pad", "[PAD]"),
        ("mask", "[MASK]"),
    ):
        getattr(writer, f"add_{name}_token_id")(words.index(word))
    for name, given in tensors.items():
        if (target := _name(name, layers)) is not None:
            writer.add_tensor(target, np.ascontiguousarray(given))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _marked(word: str) -> str:
    if word.startswith("##"):
        return word[2:]
    return word if word.startswith("[") and word.endswith("]") else f"\u2581{word}"


def _name(name: str, layers: int) -> str | None:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    if not name.startswith("encoder.layer."):
        return None
    number, _, rest = name.removeprefix("encoder.layer.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{number}.{_LAYER[part]}.{kind}" if int(number) < layers else None

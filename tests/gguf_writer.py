"""A tiny Llama and its tokenizer written as a GGUF file."""

import json

import gguf

CONTROL, NORMAL = 3, 1  # kinds of tokens


def permuted(weight, heads):
    """Rows of a query or key projection in the order that llama.cpp keeps them in."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def tensors(model):
    """The model's weights under their names in a GGUF file."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if "q_proj" in name:
            tensor = permuted(tensor, model.config.num_attention_heads)
        if "k_proj" in name:
            tensor = permuted(tensor, model.config.num_key_value_heads)
        yield names.get_name(name, try_suffixes=(".weight",)), tensor.float().numpy()


def write_gguf(path, model, tokenizer, *, template=None, architecture="llama", leave_out=(), end_of_turn=None):
    """A Llama with a byte-level tokenizer as one GGUF file of float32 weights."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_license("apache-2.0")
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([end_of_turn if end_of_turn and token == "<pad>" else token for token, _ in vocabulary])
    writer.add_token_types([CONTROL if index < 3 else NORMAL for _, index in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer._tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in tensors(model):
        if not name.startswith(tuple(leave_out)):
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""A tiny configuration for every architecture: one table by argument name, and what differs.

Every `ModelArgs.from_dict` of mlx-lm takes the arguments that it knows by name from a dictionary,
so that one table serves them all. An architecture is in `DIFFERENT` where that is not enough.
"""

from __future__ import annotations

from typing import Any

LAYERS = 4
WINDOW = 8
VOCABULARY = 96

SIZES: dict[str, Any] = {
    # The whole.
    "vocab_size": VOCABULARY,
    "num_vocab": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 64,
    "hidden_dim": 64,
    "model_dim": 64,
    "d_model": 64,
    "n_embd": 64,
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "num_transformer_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "max_position_embeddings": 256,
    "model_max_length": 256,
    "n_positions": 256,
    "n_ctx": 256,
    "block_size": 256,
    # Attention.
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "n_kv_heads": 2,
    "num_attention_groups": 2,
    "head_dim": 16,
    "kv_channels": 16,
    "hidden_size_per_head": 16,
    "global_head_dim": 16,
    "q_lora_rank": 32,
    "o_lora_rank": 32,
    "o_groups": 2,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 16,
    "attention_bias": False,
    "qk_norm": True,
    "query_pre_attn_scalar": 16.0,
    "logits_soft_cap": 30.0,
    # The window: small, so that prefill and decoding wrap it.
    "sliding_window": WINDOW,
    "sliding_window_size": WINDOW,
    "window_size": WINDOW,
    "loop_window_size": WINDOW,
    "attention_window_size": WINDOW,
    "attention_chunk_size": WINDOW,
    "sliding_window_pattern": 2,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    # Positions.
    "rope_theta": 10000.0,
    "rope_local_base_freq": 10000.0,
    "rope_local_theta": 10000.0,
    "swa_rope_theta": 10000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "partial_rotary_factor": 0.5,
    "rotary_dim": 8,
    "rotary_pct": 0.5,
    "rotary_emb_base": 10000,
    "rope_embedding_base": 10000.0,
    # Between the layers.
    "intermediate_size": 96,
    "ffn_hidden_size": 96,
    "ff_intermediate_size": 96,
    "n_inner": 96,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "mlp_bias": False,
    "bias": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_conv_bias": True,
    "post_norm": False,
    "tie_word_embeddings": False,
    "use_qk_norm": True,
    "hidden_act": "silu",
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
    # Experts.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "num_shared_expert": 1,
    "moe_num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "share_expert_dim": 32,
    "shared_intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "expert_ffn_hidden_size": 32,
    "zero_expert_num": 2,
    "zero_expert_type": "identity",
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "use_expert_bias": True,
    # Recurrent layers.
    "layer_group_size": 2,
    "group_norm_size": 2,
    "conv_window": 2,
    "conv_L_cache": 3,
    "conv_bias": False,
    "conv1d_width": 4,
    "conv_kernel": 4,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_expand": 2,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_n_groups": 1,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
    "n_groups": 1,
    "state_size": 16,
    "ssm_state_size": 16,
    "time_step_rank": 4,
    "time_step_limit": (0.001, 100.0),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
    "a_low_rank_dim": 8,
    "v_low_rank_dim": 8,
    "gate_low_rank_dim": 8,
    "decay_low_rank_dim": 8,
}

# Layers of a recurrent architecture, each kind of them twice.
_RECURRENT = ["linear_attention", "full_attention"] * (LAYERS // 2)
_KIMI_DELTA = {"kda_layers": [1, 3], "num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4}
_LONGCAT = {"mla_scale_q_lora": True, "mla_scale_kv_lora": True}
_MINICPM = {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 2.0}
_LFM2 = {
    "layer_types": ["conv", "full_attention"] * (LAYERS // 2),
    "block_dim": 64,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
_MISTRAL_ROPE = {
    "rope_type": "default",
    "type": "default",
    "rope_theta": 10000.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 16,
}
_ROPE_BY_LAYER = {
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}

DIFFERENT: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 2},
    "baichuan_m1": {"sliding_window_layers": [0, 2]},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "rope_scaling": {
            "type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 128,
            "mscale_all_dim": 0.7,
        }
    },
    "exaone4": {"rope_scaling": None, "sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False] + [True] * (LAYERS - 1)},
    "gear": {
        "layer_types": ["sliding_attention", "conv_mixer", "full_attention", "sliding_attention"]
    },
    "gemma3n": {
        "text_config": {
            "num_kv_shared_layers": 0,
            "final_logit_softcapping": 30.0,
            "activation_sparsity_pattern": [0.5] + [0.0] * (LAYERS - 1),
            "hidden_size_per_layer_input": 16,
            "altup_num_inputs": 2,
            "altup_coef_clip": 100.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 16,
        }
    },
    "gemma4": {
        "text_config": {"num_kv_shared_layers": 0, "rope_parameters": _ROPE_BY_LAYER},
    },
    "gemma4_text": {
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 16,
        "rope_parameters": _ROPE_BY_LAYER,
    },
    "glm4_moe": {"rope_scaling": None},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (LAYERS // 2)},
    "hunyuan": {
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 2.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "kimi_k3": {
        "text_config": {"hidden_act": "situ", "linear_attn_config": _KIMI_DELTA},
    },
    "kimi_linear": {"linear_attn_config": _KIMI_DELTA},
    "lfm2": _LFM2,
    "lfm2-vl": {"text_config": _LFM2},
    "lfm2_moe": {"layer_types": _LFM2["layer_types"]},
    "llama4": {
        "text_config": {
            "interleave_moe_layer_step": 2,
            "rope_scaling": None,
            "num_experts_per_tok": 1,
        }
    },
    "llama4_text": {"no_rope_layers": [1, 1, 0, 1]},
    "longcat_flash": {**_LONGCAT, "attention_method": "MLA"},
    "longcat_flash_ngram": {**_LONGCAT, "ngram_vocab_size_ratio": 3},
    "mellum": {"rope_parameters": _ROPE_BY_LAYER},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [1, 0] * (LAYERS // 2),
        "moe_layer_freq": [0, 1] * (LAYERS // 2),
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "minicpm": _MINICPM,
    "minicpm3": {
        **_MINICPM,
        "rope_scaling": {"original_max_position_embeddings": 128, "short_factor": 1.0},
    },
    "minimax_m3_vl": {
        "text_config": {
            "dense_intermediate_size": 96,
            "moe_layer_freq": [0, 1] * (LAYERS // 2),
            "layer_types": ["full_attention", "sparse_attention"] * (LAYERS // 2),
            "index_block_size": 4,
            "index_topk_blocks": 2,
        }
    },
    "ministral3": {"rope_parameters": _MISTRAL_ROPE},
    "mistral4": {"rope_parameters": _MISTRAL_ROPE},
    "muse_spark": {
        "text_config": {
            "post_norm_eps": 1e-6,
            "layer_rope_theta": [10000.0, 0.0] * (LAYERS // 2),
            "final_logit_softcapping": 20.0,
            "output_multiplier": 0.2,
            "moe_hidden_size": 32,
            "num_shared_experts": 0,
        }
    },
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"replace_with_linear": True}},
        ]
    },
    "nemotron_h": {"layer_types": None, "hybrid_override_pattern": ["M", "-", "*", "E", "M", "*"]},
    "olmo_hybrid": {"layer_types": _RECURRENT},
    "openelm": {
        "ffn_dim_divisor": 8,
        "num_query_heads": [4] * LAYERS,
        "num_kv_heads": [1, 1, 2, 2],
        "ffn_multipliers": [1.0, 1.5, 2.0, 2.0],
    },
    # It writes -inf to tokens 100,256 to 100,351 of the logits, whatever the vocabulary.
    "phi3small": {
        "vocab_size": 100352,
        "dense_attention_every_n_layers": 2,
        "gegelu_limit": 20.0,
    },
    "plamo": {"n_shared_head": 2},
    "prism_hadamard_qwen35": {
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": "model.layers.3.mlp.down_proj",
                "embedding": False,
                "dtype": "float16",
                "block": 512,
            }
        ],
        "text_config": {"intermediate_size": 512, "num_experts": 0},
    },
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"]},
    "spark2_5": {"rope_parameters": _ROPE_BY_LAYER, "hidden_act": "gelu"},
}


def configuration(architecture: str) -> dict[str, Any]:
    """The arguments of that architecture, for its `ModelArgs.from_dict`."""
    different = dict(DIFFERENT.get(architecture, {}))
    text = {**SIZES, "model_type": architecture, **different.pop("text_config", {})}
    return {**SIZES, "model_type": architecture, "text_config": text, **different}

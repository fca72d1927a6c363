"""Look up the tensors that the engine can ask for by name, and where each lives.

Source: `LLM_TENSOR_NAMES` and `LLM_TENSOR_INFOS` (llama-arch.cpp:437-1008).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ..model import Home

__all__ = ["Name", "parse"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INPUT: Final = _words("token_embd position_embd token_types per_layer_token_embd")
_OUTPUT: Final = _words("""
    altup_proj altup_unembd_proj cls cls.norm cls.output conf_proj d2t dec.output_norm dense_2 dense_3
    enc.output_norm fc markov_w1 markov_w2 nextn.post_projection output output_hc_base output_hc_down
    output_hc_fn output_hc_norm output_hc_scale output_hc_up output_norm output_res_score
    selector_hidden selector_predecessor selector_successor
""")
# without a number, and yet with the first layer
_FIRST_LAYER: Final = _words("""
    conv1d hrm.z_l_init nextn.pre_projection per_layer_model_proj per_layer_proj_norm token_embd_norm
""")
# created by every layer that uses them, once a buffer type
_SHARED: Final = _words("rope_freqs rope_factors_long rope_factors_short")
# in files, and never created
_UNUSED: Final = _words("masked_embd_centroids masked_embd_ordering dec.blk.cross_attn_rel_b")

_ENCODER_BLOCK: Final = "attn_k attn_norm attn_o attn_q attn_rel_b attn_v ffn_down ffn_gate ffn_norm ffn_up"
_BLOCKS: Final = {
    "blk": """
    altup_correct_coef altup_correct_scale altup_predict_coef altup_router altup_router_norm
    attn_compressor_ape attn_compressor_gate attn_compressor_kv attn_compressor_norm attn_conv_base
    attn_conv_proj attn_gate attn_k attn_k_b attn_k_norm attn_kv attn_kv_a_mqa attn_kv_a_norm attn_kv_b
    attn_norm attn_norm_2 attn_output attn_output_a attn_output_b attn_output_norm attn_q attn_q_a
    attn_q_a_norm attn_q_b attn_q_norm attn_qkv attn_res_score attn_sinks attn_sub_norm attn_v attn_v_b
    channel_mix_key channel_mix_lerp_k channel_mix_lerp_r channel_mix_receptance channel_mix_value
    exp_probs_b exp_probs_b_vl ffn.act ffn_conv_base ffn_conv_proj ffn_down ffn_down_chexps
    ffn_down_exps ffn_down_shexp ffn_gate ffn_gate_chexps ffn_gate_exps ffn_gate_inp ffn_gate_inp_shexp
    ffn_gate_shexp ffn_gate_tid2eid ffn_gate_up_exps ffn_latent_down ffn_latent_up ffn_norm
    ffn_norm_exps ffn_res_score ffn_routed_down ffn_routed_norm ffn_routed_up ffn_sub_norm ffn_up
    ffn_up_chexps ffn_up_exps ffn_up_shexp hc_attn_base hc_attn_down hc_attn_fn hc_attn_inject
    hc_attn_norm hc_attn_scale hc_attn_up hc_ffn_base hc_ffn_down hc_ffn_fn hc_ffn_inject hc_ffn_norm
    hc_ffn_scale hc_ffn_up indexer.attn_k indexer.attn_q_b indexer.k_norm indexer.k_proj indexer.proj
    indexer.q_norm indexer.q_proj indexer_compressor_ape indexer_compressor_gate indexer_compressor_kv
    indexer_compressor_norm inp_gate laurel_l laurel_post_norm laurel_r layer_output_norm
    layer_output_scale nextn.eh_proj nextn.embed_tokens nextn.enorm nextn.hnorm nextn.shared_head_head
    nextn.shared_head_norm ple_conv1d ple_key ple_norm_conv ple_norm_key ple_norm_query ple_value
    post_attention_norm post_ffw_norm post_ffw_norm_1 post_ffw_norm_2 post_norm pre_ffw_norm_2 proj
    shortconv.conv shortconv.in_proj shortconv.out_proj ssm_a ssm_alpha ssm_b_norm ssm_ba ssm_beta
    ssm_c_norm ssm_conv1d ssm_conv1d_k ssm_conv1d_q ssm_conv1d_v ssm_d ssm_dt ssm_dt_norm ssm_f_a
    ssm_f_b ssm_g ssm_g_a ssm_g_b ssm_in ssm_norm ssm_out ssm_x time_mix_a0 time_mix_a1 time_mix_a2
    time_mix_decay time_mix_decay_w1 time_mix_decay_w2 time_mix_first time_mix_g1 time_mix_g2
    time_mix_gate time_mix_k_a time_mix_k_k time_mix_key time_mix_lerp_fused time_mix_lerp_g
    time_mix_lerp_k time_mix_lerp_r time_mix_lerp_v time_mix_lerp_w time_mix_lerp_x time_mix_ln
    time_mix_output time_mix_r_k time_mix_receptance time_mix_v0 time_mix_v1 time_mix_v2 time_mix_value
    time_mix_w0 time_mix_w1 time_mix_w2 vis_attn_output vis_attn_qkv vis_down vis_gate vis_up
    """,
    "enc.blk": _ENCODER_BLOCK,
    "dec.blk": _ENCODER_BLOCK
    + " cross_attn_k cross_attn_norm cross_attn_o cross_attn_q cross_attn_rel_b cross_attn_v",
    "convnext": "dw norm pw1 pw2 gamma",
    "posnet": "conv1 conv2 norm norm1 norm2 attn_norm attn_q attn_k attn_v attn_output",
}
_IN_BLOCK: Final = frozenset(
    f"{family}.{name}" for family, names in _BLOCKS.items() for name in _words(names)
)

# The operation that the engine tests a device with before it puts a tensor there; matrix products where none stands.
_OPS: Final = {
    base: op
    for op, bases in {
        "GET_ROWS": """
        blk.attn_compressor_ape blk.ffn_gate_tid2eid blk.nextn.embed_tokens d2t dec.blk.attn_rel_b
        enc.blk.attn_rel_b markov_w1 per_layer_token_embd position_embd selector_predecessor
        selector_successor token_embd token_types
        """,
        "ADD": """
        blk.exp_probs_b blk.exp_probs_b_vl blk.hc_attn_base blk.hc_ffn_base blk.indexer_compressor_ape
        blk.time_mix_a0 blk.time_mix_decay blk.time_mix_lerp_fused blk.time_mix_lerp_g blk.time_mix_lerp_k
        blk.time_mix_lerp_r blk.time_mix_lerp_v blk.time_mix_lerp_w blk.time_mix_v0 blk.time_mix_w0
        hrm.z_l_init output_hc_base
        """,
        "MUL": """
        blk.altup_correct_scale blk.altup_router_norm blk.attn_compressor_norm blk.attn_conv_base
        blk.attn_k_norm blk.attn_kv_a_norm blk.attn_norm blk.attn_norm_2 blk.attn_output_norm
        blk.attn_q_a_norm blk.attn_q_norm blk.attn_res_score blk.attn_sub_norm blk.channel_mix_lerp_k
        blk.channel_mix_lerp_r blk.ffn_conv_base blk.ffn_norm blk.ffn_norm_exps blk.ffn_res_score
        blk.ffn_routed_norm blk.ffn_sub_norm blk.hc_attn_norm blk.hc_attn_scale blk.hc_ffn_norm
        blk.hc_ffn_scale blk.indexer.k_norm blk.indexer.q_norm blk.indexer_compressor_norm
        blk.laurel_post_norm blk.layer_output_norm blk.layer_output_scale blk.nextn.enorm blk.nextn.hnorm
        blk.nextn.shared_head_norm blk.ple_norm_conv blk.ple_norm_key blk.ple_norm_query
        blk.post_attention_norm blk.post_ffw_norm blk.post_ffw_norm_1 blk.post_ffw_norm_2 blk.post_norm
        blk.pre_ffw_norm_2 blk.ssm_a blk.ssm_b_norm blk.ssm_c_norm blk.ssm_conv1d_k blk.ssm_conv1d_q
        blk.ssm_conv1d_v blk.ssm_d blk.ssm_dt_norm blk.ssm_norm blk.time_mix_k_a blk.time_mix_k_k
        blk.time_mix_lerp_x blk.time_mix_ln blk.time_mix_r_k cls.norm convnext.gamma convnext.norm
        dec.blk.attn_norm dec.blk.cross_attn_norm dec.blk.ffn_norm dec.output_norm enc.blk.attn_norm
        enc.blk.ffn_norm enc.output_norm output_hc_norm output_hc_scale output_norm output_res_score
        per_layer_proj_norm posnet.attn_norm posnet.norm posnet.norm1 posnet.norm2 token_embd_norm
        """,
        "DIV": "blk.ffn.act",
        "MUL_MAT_ID": """
        blk.ffn_down_chexps blk.ffn_down_exps blk.ffn_gate_chexps blk.ffn_gate_exps blk.ffn_gate_up_exps
        blk.ffn_up_chexps blk.ffn_up_exps
        """,
        "SSM_CONV": "blk.ple_conv1d blk.shortconv.conv blk.ssm_conv1d",
        "ROPE": "rope_factors_long rope_factors_short rope_freqs",
        "SCALE": "blk.attn_sinks",
        "RWKV_WKV6": "blk.time_mix_first",
        "IM2COL": "conv1d convnext.dw posnet.conv1 posnet.conv2",
    }.items()
    for base in bases.split()
}

_NUMBERED: Final = re.compile(r"(blk|enc\.blk|dec\.blk|convnext|posnet)\.(0|[1-9][0-9]{0,3})\.(.+)")
_SUFFIX: Final = re.compile(r"\.(weight|bias|scale|scales|input_scale|lora_a|lora_b)$")


class Name(NamedTuple):
    """A tensor's name, taken apart: `base` is without number and suffix ("blk.attn_q")."""

    base: str
    home: Home | int
    is_shared: bool = False
    is_unused: bool = False
    is_bias: bool = False

    @property
    def op(self) -> str:
        """The operation that a device must run to hold it (llama-model-loader.cpp:1188-1198)."""
        op = _OPS.get(self.base, "MUL_MAT")
        if not self.is_bias:
            return op
        return "ADD_ID" if op == "MUL_MAT_ID" else "ADD"


def parse(name: str) -> Name | None:
    """Read what the engine makes of `name`; None when it has no tensor of such a name."""
    stem = _SUFFIX.sub("", name)
    is_bias = name.endswith(".bias")
    numbered = _NUMBERED.fullmatch(stem)
    if numbered:
        base = f"{numbered[1]}.{numbered[3]}"
        if base not in _IN_BLOCK:
            return None
        return Name(base, int(numbered[2]), is_unused=base in _UNUSED, is_bias=is_bias)
    if stem in _INPUT or stem in _UNUSED:
        return Name(stem, Home.INPUT, is_unused=stem in _UNUSED, is_bias=is_bias)
    if stem in _OUTPUT:
        return Name(stem, Home.OUTPUT, is_bias=is_bias)
    if stem in _FIRST_LAYER or stem in _SHARED:
        return Name(stem, 0, is_shared=stem in _SHARED, is_bias=is_bias)
    return None

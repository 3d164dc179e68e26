"""What the hyperparameters of the public scripts are about, so that a case knows which of them touch it."""

from fnmatch import fnmatchcase
from typing import Any

# By subject; the first pattern that fits decides. A name that fits none is taken to touch everything.
SUBJECTS = {
    "machine": (
        "seed run_id data_dir data_path datasets_dir default_datasets_dir *_files tokenizer_path logfile "
        "model_path quantized_model_path artifact_dir ttt_output_dir eval_only* compile_mode distributed "
        "rank local_rank is_main_process val_loss_every train_log_every churn_log_every skip_post_train_eval "
        "post_gptq_eval_only fused_ce_enabled compressor use_zstd zstd_level warmup_steps recur_warmup_steps"
    ),
    "start": "*_init_std qk_gain_init_schedule",
    "adaptation": "ttt_* global_ttt_* phased_* slot_* etlb_* lora_lr lora_rank ngram_*",
    "evaluation": "eval_* val_* sliding_* caseops_enabled",
    "averaging": "ema_* swa_enabled swa_every swa_start_frac lawa_*",
    "packing": (
        "late_qat* qat* int4_* int6_* int5_* gptq_cal* gptq_ar* gptq_b* gptq_damp gptq_enabled gptq_temp* "
        "use_gptq quant_* mixed_quant n_int6_layers *_bits *_clip_sigmas clip_mult_* hessian_clip_lambda "
        "lqer_* prune_ratio fp16_embed_export fp_storage gated_attn_quant_gate"
    ),
    "schedule": ("iterations max_wallclock_seconds warmdown_* min_lr gptq_reserve_* muon_momentum_warmup_*"),
    "steps": "grad_clip_norm enable_looping_at loop_phase2_at",
    "switching": "recur_start_step",
    "optimizer": (
        "*_lr matrix_lr_* beta1 beta2 adam_eps adam_wd adam_weight_decay weight_decay embed_wd muon_* "
        "wd_taper_* block_lars_*"
    ),
    "batches": "train_batch_tokens world_size grad_accum_steps",
}
# Which subjects can touch a case of a kind, besides the model and the unknown.
TOUCHES = {
    "artifact": (),
    "averaging": ("averaging",),
    "hessian": (),
    "model_forward": (),
    "optimizer_groups": ("optimizer",),
    "quant_state_dict": ("packing",),
    "schedule": ("schedule",),
    "scoring": ("evaluation",),
    "scoring_ttt": ("evaluation", "adaptation"),
    "scoring_lora_ttt": ("evaluation", "adaptation"),
    "training_steps": ("optimizer", "schedule", "steps"),
}
# Knobs whose hyperparameter has another name.
NAMES = {
    "ACTIVATION": "activation_type",
    "INT5_LAYERS": "int5_layers_str",
    "MTP_HEADS": "mtp_heads_count",
    "RECUR_LAYERS": "recur_layers_str",
    "SMEAR_GATE": "smear_gate_enabled",
    "TRIGRAM": "trigram_enabled",
}
WITHOUT_MODEL = ("averaging", "schedule", "quant_state_dict", "quant_gptq", "quant_tensor")


def subject(name: str) -> str:
    """What a hyperparameter is about; the model where nothing else is known of it."""
    fits = (key for key, names in SUBJECTS.items() if any(fnmatchcase(name, p) for p in names.split()))
    return next(fits, "model")


def concerns(kind: str, name: str) -> bool:
    """Whether a hyperparameter can change what a case of this kind shows."""
    about = subject(name)
    return about in TOUCHES.get(kind, tuple(SUBJECTS)) or about == "model" and kind not in WITHOUT_MODEL


def is_off(value: Any) -> bool:
    """Whether a setting at this value does nothing: false, zero, empty or none."""
    return not value or value == "none"

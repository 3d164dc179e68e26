"""The parameter table that the hyperparameters of a case mean, and what its record fixes besides."""

from bitgolf.train.optim import AdamRule, MuonRule, ParameterRow, public_rows
from tests.golden_cases.case import Case
from tests.golden_cases.records import date

FIXED_ADAM_DECAY = {"OvertoneInit": 0.01}
FIXED_MUON_DECAY = {"10L_Int5MLP": 0.04, "03-20_Int6_MLP3x": 0.04}  # stands in the code
ROWS_ALWAYS = ("2026-04-03", "2026-04-04")  # row normalization that no hyperparameter switches
POLAR = ("2026-04-23", "2026-04-27", "2026-04-29")
SMALL_PRODUCTS = ("bigram.proj.weight", "ve_shared.proj.weight")


def public_table(case: Case) -> tuple[ParameterRow, ...]:
    """The rows, in which a parameter that the script forgot has a rule as well."""
    settings = case.settings
    fixed = next((decay for name, decay in FIXED_ADAM_DECAY.items() if name in case.record), 0.0)
    decay = settings.get("adam_weight_decay", fixed)
    decay = settings.get("adam_wd", settings.get("weight_decay", decay))
    settings.get("block_lars_min_scale")  # of a trust that is switched off
    rest = AdamRule(
        lr=settings["scalar_lr"],
        beta1=settings["beta1"],
        beta2=settings["beta2"],
        eps=settings["adam_eps"],
        weight_decay=decay,
    )
    rates = {tied: settings.get(name, 0.0) for tied, name in ((True, "tied_embed_lr"), (False, "embed_lr"))}
    head_decay = settings.get("adam_weight_decay", 0.0)  # only one record gives its head a decay
    rows = public_rows(
        embedding=rest.replace(
            lr=rates[settings["tie_embeddings"]], weight_decay=settings.get("embed_wd", decay)
        ),
        head=rest.replace(lr=settings.get("head_lr", 0.0), weight_decay=head_decay),
        matrices=muon_rule(case),
        rest=rest,
    )
    if "2026-03-23" <= date(case) <= "2026-03-31":  # beside banks, Muon has nothing else
        small = (ParameterRow(pattern=name, rule=rest, may_be_idle=True) for name in SMALL_PRODUCTS)
        return (*small, *rows)
    return rows


def muon_rule(case: Case) -> MuonRule:
    settings = case.settings
    settings.get("muon_beta2")  # stands in the scripts of many records and is used in none
    for name in ("matrix_lr_early", "matrix_lr_late"):
        settings.get(name)  # factors of whole gradients, which the norm before the iteration takes away
    fixed = next((decay for name, decay in FIXED_MUON_DECAY.items() if name in case.record), 0.0)
    return MuonRule(
        lr=settings["matrix_lr"],
        momentum=settings["muon_momentum"],
        warmup_start=settings["muon_momentum_warmup_start"],
        warmup_steps=settings["muon_momentum_warmup_steps"],
        backend_steps=settings["muon_backend_steps"],
        weight_decay=settings.get("muon_wd", settings.get("muon_weight_decay", fixed)),
        row_normalize=bool(settings.get("muon_row_normalize", date(case) in ROWS_ALWAYS)),
        taper_start=settings.get("wd_taper_start_frac", 1.0),
        taper_final=settings.get("wd_taper_final_mult", 1.0),
        polar_express=any(case.record.startswith(name) for name in POLAR),
    )

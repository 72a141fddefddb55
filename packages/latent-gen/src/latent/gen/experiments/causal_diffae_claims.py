"""What is compared, what must hold, and what is measured in the experiment of `gen/causal-diffae`."""

from collections.abc import Mapping

from latent.core.report.claims import AtLeast, AtMost, Claim, Control, Exceeds
from latent.core.run.experiment import Arm

__all__ = ["ARMS", "CLAIMS", "MEASURES", "RESPONSES", "SETTINGS", "TABLED"]

ARMS: Mapping[str, Arm] = {
    "scm": Arm("method", "Thickness acts on intensity.", quick=True),
    "no-graph": Arm("baseline", "No factor acts on another: a diffusion autoencoder with labels.", quick=True),
    "reversed": Arm("control", "Intensity acts on thickness."),
    "shuffled": Arm("control", "Labels of other pictures."),
    "few-labels": Arm("method", "One label of ten is known."),
    "correlated": Arm("method", "Digits with their own intensity, nearly all of which follows from thickness."),
    "pendulum": Arm("method", "A pendulum and a light make a shadow."),
}
#: Prefix of a measure -> the noise and guidance by which pictures were made.
SETTINGS = {
    "": "random noise",
    "guided_": "random noise and guidance",
    "kept_": "the picture's own noise",
    "kept_guided_": "the picture's own noise and guidance",
    "untold_": "random noise, and a denoiser that is not told the factors",
}
#: What is measured with each.
RESPONSES = {
    "cause": "How much the cause changes for each deviation that it is set higher, in deviations",
    "effect": "How much the effect changes for each deviation that it is set higher",
    "passed": "How much the effect changes for each deviation that the cause is set higher",
    "leaked": "How much the cause changes for each deviation that the effect is set higher",
    "obeyed": "The lesser of `cause` and `effect`",
    "minimality": "Mean change of factors that should not change, in deviations",
    "effectiveness": "Mean error of factors that were set or follow, against the true mechanisms, in deviations",
    "reconstruction": "Mean squared error of pixels when nothing is set",
}
MEASURES: Mapping[str, str] = {
    **{f"{prefix}{key}": f"{text}: {how}." for prefix, how in SETTINGS.items() for key, text in RESPONSES.items()},
    "wrong_way": "Size of `leaked`, whatever its sign.",
    "guided_wrong_way": "Size of `guided_leaked`.",
    "true_passed": "`passed` in pictures that the world itself draws, read by the same network.",
    "passed_gap": "How far `passed` is from that.",
    "kept": "`kept_reconstruction` as a share of `reconstruction`.",
    "kept_of_other": "The same with the noise of another picture.",
    "reversibility": "Mean squared error of pixels after the first factor was set and set back.",
    "disentanglement": "DCI: whether each coordinate of the code tells of one factor.",
    "completeness": "DCI: whether each factor is told by one coordinate.",
    "informativeness": "DCI: R2 of the factors from the code, on held-out pictures.",
    "judge_error": "Mean error of who reads factors from real pictures, in deviations.",
    "pixel_variance": "Variance of the pixels.",
    "unseen": "Share of factors that pictures with random noise do not show; they are left out of all means.",
    "shadow_error": "How far the shadow is from where a light that was set casts it, in 32nds of the picture's width.",
    "shadow_unset": "The same where no light was set: as far as the shadow must move.",
    "shadow_unseen": "Share of these pictures that show no shadow; each counts as an error of half the picture.",
    "shadow_obeys": "How far the shadow moves for each unit that it is set farther; 1 obeys.",
    "bob_moved": "How far setting the light moves the pendulum, in deviations of its angle.",
    "bob_moved_by_shadow": "How far setting the shadow's position does.",
    "bob_set": "How far setting the pendulum's angle moves it.",
}
#: What stands in the table of all arms; the others stand by noise and guidance in a table of their own.
TABLED = {
    name: text
    for name, text in MEASURES.items()
    if not name.startswith(("guided_", "kept_", "untold_")) or name in ("kept_of_other", "guided_wrong_way")
}
CLAIMS = (
    Claim(
        id="cause-reaches-effect",
        statement="With guidance, setting thickness one deviation higher makes digits at least .6 deviations brighter.",
        source="arXiv:2404.17735, counterfactuals; the threshold is ours",
        paper_value="pictures alone",
        check=AtLeast(arm="scm", measure="guided_passed", value=0.6),
        controls=(
            Control(arm="no-graph", measure="guided_passed", summary="no graph"),
            Control(arm="reversed", measure="guided_passed", summary="the graph turned round"),
            Control(arm="shuffled", measure="guided_passed", summary="labels of other pictures"),
            Control(arm="scm", measure="untold_passed", summary="a denoiser that is not told the factors"),
        ),
    ),
    Claim(
        id="beats-no-graph",
        statement="That is at least .25 more than without a graph.",
        source="arXiv:2404.17735, against DiffAE",
        paper_value="better, number not given",
        check=Exceeds(arm="scm", measure="guided_passed", over=("no-graph", "guided_passed"), margin=0.25),
        controls=(
            Control(arm="reversed", measure="guided_passed", summary="the graph turned round"),
            Control(arm="shuffled", measure="guided_passed", summary="labels of other pictures"),
        ),
    ),
    Claim(
        id="factors-obey",
        statement="With guidance, each factor that is set moves by at least .8 of what it is set to.",
        source="arXiv:2404.17735, effectiveness; the threshold is ours",
        paper_value="lower error than without, number not given",
        check=AtLeast(arm="scm", measure="guided_obeyed", value=0.8),
        controls=(
            Control(arm="shuffled", measure="guided_obeyed", summary="labels of other pictures"),
            Control(arm="scm", measure="untold_obeyed", summary="a denoiser that is not told the factors"),
        ),
    ),
    Claim(
        id="effect-leaves-cause",
        statement="With guidance, setting intensity one deviation higher moves thickness by at most .3.",
        source="arXiv:2404.17735, interventions on effects; the threshold is ours",
        paper_value="pictures alone",
        check=AtMost(arm="scm", measure="guided_wrong_way", value=0.3),
        controls=(Control(arm="reversed", measure="guided_wrong_way", summary="the graph turned round"),),
    ),
    Claim(
        id="as-the-truth",
        statement="Without guidance the effect moves as in pictures that the world itself draws, to within .15.",
        source="no paper: the world's own counterfactuals",
        paper_value="not given",
        check=AtMost(arm="scm", measure="passed_gap", value=0.15),
        controls=(
            Control(arm="no-graph", measure="passed_gap", summary="no graph"),
            Control(arm="reversed", measure="passed_gap", summary="the graph turned round"),
            Control(arm="shuffled", measure="passed_gap", summary="labels of other pictures"),
        ),
    ),
    Claim(
        id="noise-keeps-identity",
        statement="With a picture's own noise nothing set loses at most half as much as with random noise.",
        source="arXiv:2404.17735, abduction; the official code draws random noise",
        paper_value="not given",
        check=AtMost(arm="scm", measure="kept", value=0.5),
        controls=(Control(arm="scm", measure="kept_of_other", summary="the noise of another picture"),),
    ),
    Claim(
        id="few-labels-suffice",
        statement="With one label of ten, and guidance, each factor still moves by at least .6.",
        source="arXiv:2404.17735, weak supervision; the threshold is ours",
        paper_value="robust, number not given",
        check=AtLeast(arm="few-labels", measure="guided_obeyed", value=0.6),
        controls=(Control(arm="shuffled", measure="guided_obeyed", summary="labels of other pictures"),),
    ),
    Claim(
        id="light-casts-shadow",
        statement="A light that is set casts the shadow within 1.5 pixels of 32 of where it must be.",
        source="arXiv:2404.17735, Pendulum",
        paper_value="pictures alone",
        check=AtMost(arm="pendulum", measure="shadow_error", value=1.5),
        controls=(Control(arm="pendulum", measure="shadow_unset", summary="no light is set"),),
    ),
    Claim(
        id="light-leaves-pendulum",
        statement="A light that is set moves the pendulum by at most .2 deviations.",
        source="arXiv:2404.17735, Pendulum",
        paper_value="pictures alone",
        check=AtMost(arm="pendulum", measure="bob_moved", value=0.2),
        controls=(Control(arm="pendulum", measure="bob_set", summary="the pendulum itself is set"),),
    ),
)  # fmt: skip

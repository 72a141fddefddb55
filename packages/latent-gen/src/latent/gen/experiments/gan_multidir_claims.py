"""What is compared, what must hold, and what is measured in the experiment of `gen/gan-multidir`."""

from collections.abc import Mapping

from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control
from latent.core.run.experiment import Arm

__all__ = ["ARMS", "CLAIMS", "MEASURES"]

ARMS: Mapping[str, Arm] = {
    "mask": Arm("method", "Gradient without the coordinates that matter most for kept attributes.", quick=True),
    "project": Arm("method", "Gradient without the span of the kept attributes' gradients.", quick=True),
    "gradient": Arm("baseline", "Gradient of the target alone.", quick=True),
    "linear": Arm("baseline", "Normal of a linear support vector machine (InterFaceGAN).", quick=True),
    "linear-projected": Arm("baseline", "The same without the span of the kept attributes' normals."),
    "pca": Arm("baseline", "The principal component that goes with the target best (GANSpace)."),
    "random-mask": Arm("control", "A mask of as many coordinates, chosen at random."),
    "random-project": Arm("control", "Random vectors in place of the kept attributes' gradients."),
    "project-correlated": Arm("control", "Projection in a generator of digits whose intensity follows from thickness."),
    "shuffled": Arm("control", "Probes trained with scores of other rows; gradient of the target alone."),
}
_PAPER = "arXiv:2209.00698"
CLAIMS = (
    Claim(
        id="field-moves",
        statement="Where coordinates act on each other, the gradient moves the target by 2 deviations.",
        source=_PAPER,
        paper_value="bi- and multi-directional control",
        check=AtLeast(arm="gradient", measure="exact_target", value=2.0),
        controls=(
            Control(arm="linear", measure="exact_target", summary="a fixed direction"),
            Control(arm="shuffled", measure="exact_target", summary="shuffled scores"),
        ),
    ),
    Claim(
        id="line-does-not",
        statement="There the best linear boundary's normal moves it by less than 0.3 deviations.",
        source=_PAPER,
        paper_value="a single direction is not enough",
        check=AtMost(arm="linear", measure="exact_target_size", value=0.3),
        controls=(Control(arm="gradient", measure="exact_target_size", summary="the field"),),
    ),
    Claim(
        id="shuffled-does-not",
        statement="Probes of shuffled scores move the target by less than 0.3 deviations.",
        source=_PAPER,
        paper_value="none",
        check=AtMost(arm="shuffled", measure="exact_target_size", value=0.3),
        controls=(Control(arm="gradient", measure="exact_target_size", summary="true scores"),),
    ),
    Claim(
        id="mask-spares-others",
        statement="A mask of 10 coordinates an attribute lowers what others change by 25 % at least.",
        source=_PAPER,
        paper_value="significantly better disentanglement",
        check=AtLeast(arm="mask", measure="exact_saved", value=0.25),
        controls=(Control(arm="gradient", measure="exact_saved", summary="no mask"),),
    ),
    Claim(
        id="mask-costs-little",
        statement="It costs 25 % of the target's change at most.",
        source=_PAPER,
        paper_value="not stated",
        check=AtMost(arm="mask", measure="exact_cost", value=0.25),
        controls=(
            Control(arm="linear", measure="exact_cost", summary="a fixed direction"),
            Control(arm="shuffled", measure="exact_cost", summary="shuffled scores"),
        ),
    ),
    Claim(
        id="mask-improves-ratio",
        statement="For each unit of what others change, the target changes 1.2 times as much as without the mask.",
        source=_PAPER,
        paper_value="significantly better disentanglement",
        check=AtLeast(arm="mask", measure="exact_relative", value=1.2),
        controls=(Control(arm="random-mask", measure="exact_relative", summary="a mask at random"),),
    ),
    Claim(
        id="projection-spares-more",
        statement="Projection lowers what others change by 40 % at least.",
        source="ours",
        paper_value="ours",
        check=AtLeast(arm="project", measure="exact_saved", value=0.40),
        controls=(
            Control(arm="gradient", measure="exact_saved", summary="no projection"),
            Control(arm="random-project", measure="exact_saved", summary="random vectors"),
        ),
    ),
    Claim(
        id="projection-costs-nothing",
        statement="It costs 5 % of the target's change at most.",
        source="ours",
        paper_value="ours",
        check=AtMost(arm="project", measure="exact_cost", value=0.05),
        controls=(
            Control(arm="random-mask", measure="exact_cost", summary="a mask at random"),
            Control(arm="shuffled", measure="exact_cost", summary="shuffled scores"),
        ),
    ),
    Claim(
        id="monotone-linear-ties",
        statement="Where a coordinate's effect is the same everywhere, the linear normal wins or ties (0.9).",
        source="a falsification: otherwise something leaks",
        paper_value="none",
        check=AtLeast(arm="linear", measure="monotone_relative", value=0.9),
        controls=(Control(arm="linear", measure="exact_relative", summary="where it depends on the others"),),
    ),
    Claim(
        id="projection-has-no-basis",
        statement="In a rotated basis projection walks to the same place; a mask does not.",
        source="ours",
        paper_value="ours",
        check=AtMost(arm="project", measure="rotation_gap", value=1e-3),
        controls=(Control(arm="mask", measure="rotation_gap", summary="the mask"),),
    ),
    Claim(
        id="digits-mask",
        statement="At one deviation of thickness, a mask has at most 0.75 of the others' change without one.",
        source=_PAPER,
        paper_value="significantly better disentanglement",
        check=AtMost(arm="mask", measure="thickness_share", value=0.75),
        controls=(
            Control(arm="gradient", measure="thickness_share", summary="no mask"),
            Control(arm="random-mask", measure="thickness_share", summary="a mask at random"),
        ),
    ),
    Claim(
        id="digits-project",
        statement="At one deviation of thickness, projection has at most 0.6 of the others' change without it.",
        source="ours",
        paper_value="ours",
        check=AtMost(arm="project", measure="thickness_share", value=0.60),
        controls=(
            Control(arm="gradient", measure="thickness_share", summary="no projection"),
            Control(arm="random-project", measure="thickness_share", summary="random vectors"),
            Control(arm="project-correlated", measure="thickness_share", summary="a generator without such digits"),
        ),
    ),
    Claim(
        id="digits-beat-lines",
        statement="At one deviation of thickness, projection changes others by 0.2 less than a linear normal does.",
        source=_PAPER,
        paper_value="significantly better than prior methods",
        check=Below(arm="project", measure="thickness_off", over=("linear", "thickness_off"), margin=0.2),
        controls=(
            Control(arm="linear-projected", measure="thickness_off", summary="the normal, projected"),
            Control(arm="pca", measure="thickness_off", summary="a principal component"),
            Control(arm="random-project", measure="thickness_off", summary="random vectors"),
        ),
    ),
    Claim(
        id="ten-directions",
        statement="Walks to each of ten digits arrive, by a judge of its own, with 80 % of all rows.",
        source=_PAPER,
        paper_value="multi-directional control",
        check=AtLeast(arm="gradient", measure="classes_success", value=0.8),
        controls=(
            Control(arm="pca", measure="classes_success", summary="principal components"),
            Control(arm="shuffled", measure="classes_success", summary="shuffled scores"),
        ),
    ),
)
MEASURES: Mapping[str, str] = {
    "exact_target": "Change of the target in deviations at the end, the exact generator; mean over its attributes.",
    "exact_target_size": "The same without its sign.",
    "exact_off": "Mean absolute change of the other attributes there.",
    "exact_ratio": "Their ratio.",
    "exact_relative": "That ratio, divided by that of `gradient`.",
    "exact_saved": "By which share `exact_off` is lower than that of `gradient`.",
    "exact_cost": "By which share `exact_target` is lower than that of `gradient`.",
    "exact_probe": "Accuracy of the probes among the extremes of latent states that they have not seen.",
    "exact_kept": "Share of coordinates that a mask left, or of the gradient's length that projection left.",
    "monotone_target": "As `exact_target`, where a coordinate's effect is the same everywhere.",
    "monotone_off": "As `exact_off`, there.",
    "monotone_ratio": "As `exact_ratio`, there.",
    "monotone_relative": "As `exact_relative`, there.",
    "rotation_gap": "How far the end is from that in a rotated basis, as a share of the way.",
    "thickness_off": "Mean of the two following where thickness has changed by `strength`; 10 where it never has.",
    "thickness_intensity": "Mean absolute change of intensity in deviations there.",
    "thickness_digit": "Probability that moved between digits there, from 0 to 1.",
    "thickness_share": "`thickness_off` divided by that of `gradient`.",
    "thickness_most": "Greatest mean change of thickness on the path, in deviations.",
    "thickness_formula": "Change of thickness there by a formula instead of the judge; 0 where it never has.",
    "formula_off": "As `thickness_off`, where the formula says that thickness has changed by half of `strength`.",
    "formula_share": "`formula_off` divided by that of `gradient`.",
    "classes_success": "Share of rows that end as the digit that they walked to, mean over ten.",
    "classes_off": "Mean absolute change of thickness and intensity where `success` of the rows arrived; 10 if never.",
    "digits_probe": "Accuracy of the digits' probes among extremes that they have not seen, the mean of three.",
    "generator_slope": "Slope of intensity on thickness among pictures of the generator, in deviations.",
}

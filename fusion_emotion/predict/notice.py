"""What every output of a prediction says of itself, and the licence of the model's data."""

from collections.abc import Mapping
from typing import Any

_TEXT = (
    "These numbers say how an acted recording with this face and voice was labelled in {corpus}: they are of an "
    "expression, and do not say what a person feels. On {whom} of that corpus the model had {score} ({protocol}); on "
    "ordinary recordings expect less. Not for decisions about people. In the European Union inferring emotions at work "
    "or in education is prohibited (Regulation (EU) 2024/1689, Art. 5(1)(f)), and people who are recorded must be told "
    "(Art. 50(3)). Everything stays on this machine."
)


def notice(about: Mapping[str, Any]) -> str:
    """Return the notice of a model, whose model.json is `about`."""
    numbers = about["numbers"]
    protocol = numbers["protocol"]
    whom = f"{numbers['clips']} clips of {numbers['speakers']} people"
    met = "it had not met" if protocol["speaker_independent"] else "who were in training too"
    return _TEXT.format(
        corpus=about["trained_on"],
        whom=f"{whom} {met}",
        score=f"{numbers['uar']:.1%} UAR, the mean recall of the emotions",
        protocol=f"protocol {protocol['name']}, chance {numbers['chance_uar']:.1%}",
    )

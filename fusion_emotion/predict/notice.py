"""What every output of a prediction says of itself, and the licence of the model's data."""

from collections.abc import Mapping, Sequence
from typing import Any

_TEXT = (
    "These numbers say how a recording with this face and voice would be labelled in {corpus}: they are of an "
    "expression, and do not say what a person feels. {scores}; on ordinary recordings expect less. Not for decisions "
    "about people. In the European Union inferring emotions at work or in education is prohibited (Regulation (EU) "
    "2024/1689, Art. 5(1)(f)), and people who are recorded must be told (Art. 50(3)). Everything stays on this machine."
)
_TOGETHER = "The two together were not measured on people they had not met"


def notice(about: Mapping[str, Any]) -> str:
    """Return the notice of a model, whose model.json is `about`, or of two that judge together."""
    if "parts" not in about:
        scores = f"On {whom(about['numbers'])} of that corpus the model had {score(about['numbers'])}"
    else:
        said = (
            f"on {whom(part['numbers'])} of {part['trained_on']} the model of the {name} had {score(part['numbers'])}"
            for name, part in about["parts"].items()
        )
        scores = f"{'; '.join(said)}. {_TOGETHER}"
    return _TEXT.format(corpus=about["trained_on"], scores=scores[0].upper() + scores[1:])


def models(about: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the model.json of a model, or those of two that judge together."""
    return list(about["parts"].values()) if "parts" in about else [about]


def whom(numbers: Mapping[str, Any]) -> str:
    """Return which clips the numbers of a model are of, in words."""
    clips = f"{numbers['clips']} clips"
    if not numbers["speakers"]:
        return f"{clips} of people who are not named"
    met = "it had not met" if numbers["protocol"]["speaker_independent"] else "who were in training too"
    return f"{clips} of {numbers['speakers']} people {met}"


def score(numbers: Mapping[str, Any]) -> str:
    """Return the mean recall of a model with its protocol, in words."""
    return (
        f"{numbers['uar']:.1%} UAR, the mean recall of the emotions (protocol {numbers['protocol']['name']}, chance "
        f"{numbers['chance_uar']:.1%})"
    )

"""One model, or a baseline, on clips: answers, measures and their intervals."""

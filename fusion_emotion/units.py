"""Rates of the records, the same for every corpus and every model."""

FRAME_RATE_HZ = 5  # sampled face crops
SAMPLE_RATE_HZ = 16_000  # mono sound
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FRAME_RATE_HZ

"""What the report says in plain words, in one place to read and correct."""

from __future__ import annotations

LABELS_USED = "Labels were used for the annotated support slices and for scoring only."

HEADLINE = (
    "Mean Dice over whole volumes (0 = no overlap, 1 = perfect): over cases per organ, then over organs. "
    "{seeds}; support slices: {slices}; {supports} per site. "
    "Before is the same network ahead of the first round, with the same support and the same scoring. "
    "Rose counts pairs of a case and an organ whose Dice is higher after training. "
    "Changes are taken before rounding."
)

ORGANS = (
    "Large dots are means over cases; the small dots below are the single cases, each joined to itself. "
    "In the tables, whole volume scores every slice; GT range scores only the slices that truly hold the "
    "organ, which is kinder (see Limits). Beside Dice stand volumes: a dot per case, a line at the mean and, from "
    "three cases on, a bar that holds 95 % of cases (limits of agreement, Bland and Altman 1986)."
)

TRAINING = (
    "Pseudo-labels are superpixels found without any annotation; their Dice shows whether the network learns "
    "its training task, not whether it finds organs. The cosine compares a site's update with the averaged "
    "one: near 1 the sites pull the same way, near 0 or below they disagree."
)

PHANTOM_LIMIT = (
    "The cases are phantoms: synthetic shapes with simulated CT and MR contrast. "
    "High Dice on them shows that the program works from end to end; it says nothing about patients."
)

LIMITS = (
    "This is not a medical device. Do not use it for diagnosis or treatment.",
    "Whole volume: every slice is scored, false positives far from the organ count, "
    "and nothing of the query's labels is used. This is what a user would get.",
    "GT range: only the slices between the organ's true first and last slice are scored, and the truth also "
    "decides which support slice serves which query slice. It is the usual protocol in the literature and is "
    "kinder than reality.",
    "Dice is not defined when an organ is neither there nor predicted; such cases are left out of the means. "
    "It is 0 when only one of the two is empty.",
    "With few cases and seeds, a change of a few hundredths may be chance. "
    "Look at the single cases, not only at the means.",
    "Sites exchange network weights, not images. That alone is not a guarantee of privacy.",
)

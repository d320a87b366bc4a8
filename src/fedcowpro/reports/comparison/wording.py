"""What the page says in plain words, in one place to read and correct."""

from __future__ import annotations

METHOD = (
    "{metric} Answered with the protocol {protocol}: {meaning}. The case is the unit: its organs are averaged first, "
    "then its seeds; only cases and organs that every method was scored on count. {confidence} intervals are for cases "
    "and seeds together: {interval}. {tests}"
)
_RESAMPLED = "seeds and cases drawn anew with replacement ({resamples} resamples from seed {seed})"
INTERVALS = {
    "studentised": "studentised bootstrap over cases ({resamples} resamples from seed {seed}), Student's t for seeds "
    "and where cases are few (below {few})",
    "t": "Student's t, with the error of seeds and cases",
    "percentile": f"percentile bootstrap, {_RESAMPLED}",
    "bca": f"bias-corrected and accelerated (BCa) bootstrap, {_RESAMPLED}",
}
NARROW = (
    "Intervals of the {name} bootstrap are too narrow with few cases or seeds: of normal scores, those over 12 cases "
    "hold the true mean 91% of the time rather than 95%. The default of --interval does not have that fault."
)
TESTS = (
    "The p is that of Wilcoxon's signed-rank test over cases or, where it is larger, that of the difference over seeds "
    "and cases; it is corrected for {pairs} by Holm's method. 'Shown' means: corrected p of at most {alpha:g}{gate}."
)
GATE = ", and the test over all methods at once passes too"
PROTOCOLS = {
    "whole-volume": "every slice is scored and nothing of the query's labels is used, as a user would have it",
    "gt-range": "only slices between the organ's true first and last one are scored, as usual in the literature; "
    "kinder than reality",
}
MARGIN = (
    "The margin of {margin:g} is the largest difference that counts as none in practice; it has to be chosen before "
    "looking at the numbers. Equivalence is judged by the {confidence} interval (two one-sided tests at {alpha:g})."
)
NUMBERS = (
    "Difference: method minus reference, taken before rounding, with its {confidence} interval. Rank-biserial: "
    "matched-pairs rank-biserial correlation, from −1 (the reference is higher in every case) to 1; dz: Cohen's mean "
    "difference over its standard deviation between cases. Cases: better / worse / equal, compared with the reference."
)
ONE_METHOD = "There is one method only, '{method}': nothing is compared."
NO_SCORES = "There are no scores, so nothing can be said about which method segments better."
NO_COMMON = (
    "No case and organ has a score of every method, so the methods cannot be compared. Evaluate all of them with the "
    "same --episodes file."
)
SITES = (
    "The same difference at each site alone. These intervals are not corrected for the number of sites; a site with "
    "few cases says little by itself."
)
POOLED = "All sites' cases are pooled, each with the same weight, so that a site with more cases weighs more."
SECOND = (
    "Not the protocol of the answer: these numbers are shown beside it, and their p are corrected among themselves."
)
MARKS = (
    "Mean over cases, its {confidence} interval below; every method on the same cases. ▲ better and ▼ worse than "
    "'{reference}', p at most {alpha:g} after Holm's correction for all {tests} of this protocol's tables; without a "
    "mark no difference is shown."
)
NO_MARKS = (
    " There can be none here: even a method that is better in all of {cases} cases does not pass among {tests} "
    "comparisons, which takes {needed} cases."
)
FEW_MARKS = " A row of fewer than {needed} cases can hardly have one."
SOME_DIFFER = (
    "So some methods differ from each other; none is shown to differ from the reference, which is all that was asked."
)
EPISODES = (
    "Which annotated slices (counted from 1, feet first) segmented which cases. In gt-range with pairing 'same-part' "
    "an organ's slices are cut into as many parts as there are annotated slices, and each part is segmented by its own."
)
SAME_SETTINGS = "Settings of inference, the same for all methods and protocols: {settings}."
PLAIN_MEANS = "Mean over cases, its {confidence} interval below."
MORE_METRICS = (
    "Over all sites, as in the answer: mean over cases with its interval. Which methods differ is asked of Dice only; "
    "these metrics describe it further."
)
VOLUME_ERROR = "Volume error: mean of the relative volume error without its sign."
VOLUME_BIAS = "Volume bias: mean of the relative volume error with its sign; positive = too large."
HD95 = (
    "HD95 of an organ that was missed altogether is infinite. Where that happened, the median over cases stands in "
    "place of the mean, with the number of infinite values; a mean would be infinite, and without those cases it would "
    "favour a method that misses organs."
)
STAND_IN = "An infinite HD95 counts as {infinite:g} mm."
AGREEMENT = (
    "Volumes found against true ones, in percent of the mean of both: the mean difference, and below it the limits of "
    "agreement that hold 95 % of cases if these are normally distributed (Bland and Altman 1986; three cases or more). "
    "Minus: found too small; −200 %: missed."
)
SPREAD = (
    "Each dot is a case, the mean over its seeds; the small ticks beside it are the single seeds, the long line is the "
    "median. A case keeps its height in every method's band. Protocol: {protocol}. Only cases that have a score of "
    "every method."
)
TRAINING = (
    "Thin bands reach from the smallest to the largest seed, lines are the mean. Pseudo-labels are superpixels found "
    "without any annotation: their Dice shows whether the network learns its training task, not whether it finds "
    "organs. Cosine and drift compare a client's update in a round with the weighted mean of all clients' updates: "
    "cosine 1 and drift 0 mean that it did what all did together; drift is the distance from the mean update in units "
    "of the mean update's length, and above 1 a client went further from the mean than the mean went. A run with one "
    "client has cosine 1 and drift 0 by definition."
)
TRAFFIC = (
    "Seconds are a client's local training, on the machine and beside the load of that time, not a benchmark. Bytes "
    "are those of the messages, down to a client and up from it."
)
IDS = "Cases stand under their ids. Make sure that these are no patients' names before this page leaves the hospital."
PROVENANCE = (
    "Every number above is computed from the tables and records below, by fedcowpro {version}, with {resamples} "
    "bootstrap resamples from seed {seed}. The same files and options give the same page, byte for byte."
)
LIMITS = (
    "This is not a medical device. Do not use it for diagnosis or treatment.",
    "Results hold for cases like these. Nothing here says how a method does on other scanners, diseases or organs.",
    "Dice is not defined when an organ is neither there nor predicted; such scores are left out, for all methods. It "
    "is 0 when only one of the two is empty.",
    "Numbers were compared by the methods named on this page, whatever led to the choice of arms, cases and margin. "
    "Choices that were made after looking at these same cases make every p too small.",
)

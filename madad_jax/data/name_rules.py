"""What the name of a file says: a mask or segmentation, or a scan of some contrast.

BIDS puts both into the last word of a name (`sub-01_T1w`, `sub-01_desc-brain_mask`), and so do
nnU-Net, BraTS and most laboratories.
"""

import re

# Folders of results and labels, in small letters.
_NO_SCANS = (
    *("derivatives", "labels", "labelstr", "labelsts", "labelsval"),
    *("masks", "segmentations", "parcellations"),
)
_MASK_ENDINGS = (
    *("mask", "seg", "segmentation", "segmentations", "parcellation", "parc"),
    # FSL's tissues and FreeSurfer's grey matter, as words of their own.
    *("_pve", "_prob", "_ribbon"),
)
_MASK_WORDS = (
    *("msk", "label", "labels", "lesion", "lesions", "roi", "rois"),
    *("gt", "truth", "groundtruth", "wmh"),
)
_CONTRASTS = {
    **dict.fromkeys(("t1w", "t1n", "mprage", "unit1"), "T1"),
    **dict.fromkeys(("t1ce", "t1c", "t1gd"), "T1CE"),
    **dict.fromkeys(("t2w",), "T2"),
    **dict.fromkeys(("flair", "t2f"), "FLAIR"),
    **dict.fromkeys(("pdw",), "PD"),
    **{
        word: word
        for word in (
            *("bold", "sbref", "dwi", "adc", "epi", "asl", "m0scan", "swi", "t2star", "t2starw"),
            *("t1map", "t2map", "phasediff", "phase1", "phase2", "magnitude1", "magnitude2"),
            *("ct", "pet", "angio", "mra"),
        )
    },
}
# These also name points in time: they are no reason to leave a scan out.
_UNSURE = {"t1": "T1", "t2": "T2", "pd": "PD"}


def is_folder_of_results(name: str) -> bool:
    """Whether a folder of this name holds results or labels and no scans."""
    return name.lower() in _NO_SCANS


def is_mask(stem: str) -> bool:
    """Whether a file's name, without its ending, ends as masks and segmentations do."""
    words = _words(stem)
    if words and words[-1] in _MASK_WORDS:
        return True
    named = [word for word in words if not word.isdigit()]  # "x_mask_2"
    return bool(named) and f"_{named[-1]}".endswith(_MASK_ENDINGS)


def other_contrast(stem: str, modality: str) -> tuple[str, bool]:
    """(the contrast that a name states, if it is another than `modality`, else ""; is it sure).

    A modality that is no known one leaves all names alone.
    """
    own = _contrast(modality.lower())[0]
    words = _words(stem)
    found, sure = _contrast(words[-1] if words else "")
    # BIDS: the entity `ce` is a contrast agent.
    if found == "T1" and sure and re.search(r"(^|_)ce-", stem.lower()):
        found = "T1CE"
    return (found, sure) if own and found and found != own else ("", False)


def stated_contrast(stem: str) -> str:
    """The contrast that the last word of a name states; "" for none."""
    words = _words(stem)
    return _contrast(words[-1] if words else "")[0]


def _contrast(word: str) -> tuple[str, bool]:
    return _CONTRASTS.get(word) or _UNSURE.get(word, ""), word in _CONTRASTS


def _words(stem: str) -> list[str]:
    return [word for word in re.split(r"[^0-9a-z]+", stem.lower()) if word]

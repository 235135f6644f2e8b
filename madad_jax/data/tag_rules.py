"""What the headers of a DICOM series say of it: a contrast, or that it is no scan to be scored.

The rules, in their order. None of them guesses: what they do not settle stays "" (not known).

1. **No scan**: ImageType or a word of the description says localizer, derived (reformats,
   projections, subtractions, maps) or phase.
2. **Words** of SeriesDescription and ProtocolName name a contrast (`_WORDS`).
3. **Times**: inversion, echo and repetition time name one where no word does, and a word that they
   contradict counts for nothing.
4. **Contrast agent**: a word, or ContrastBolusAgent, makes T1 to T1CE. An agent beside a word for
   "before" is a contradiction.
"""

import re
from typing import Any

import pydicom

# Words that stand for a contrast; a series that two of them name is settled by its times.
_WORDS = {
    **dict.fromkeys(("t1", "t1w", "mprage", "bravo", "mpr1"), "T1"),
    **dict.fromkeys(("t2", "t2w"), "T2"),
    **dict.fromkeys(("flair", "tirm", "darkfluid"), "FLAIR"),
    **dict.fromkeys(("pd", "pdw"), "PD"),
    **dict.fromkeys(("swi", "swan", "hemo", "t2star"), "SWI"),
    **dict.fromkeys(("dwi", "dti", "diff", "diffusion", "adc", "trace", "b1000"), "DWI"),
    **dict.fromkeys(("bold", "fmri", "rest", "asl", "perf", "perfusion", "dsc", "pwi"), "EPI"),
    **dict.fromkeys(("tof", "mra", "angio", "cow"), "ANGIO"),
    **dict.fromkeys(("t1map", "t2map", "fieldmap", "field", "phasediff"), "MAP"),
}
# These name a sequence that has a contrast in its name as well: "ep2d t2", "t1 map", "t2 star".
_STRONGER = ("DWI", "EPI", "ANGIO", "MAP", "SWI")
_LOCALIZER = {"localizer", "localiser", "scout", "survey", "loc", "3plane"}
_DERIVED = {"mpr", "reformat", "reformatted", "mip", "minip", "sub", "subtraction", "derived"}
_AGENT = {"gd", "gad", "gado", "gadolinium", "post", "ce", "km", "postcontrast", "dotarem"}
_BEFORE = {"pre", "nativ", "native", "ohne", "sans", "without", "noncontrast", "precontrast"}
_NO_AGENT = {"", "none", "no", "n", "na", "0", "ohne", "without"}


def words_of(header: pydicom.Dataset) -> set[str]:
    """Words of a series' description and protocol, in small letters."""
    text = f"{header.get('SeriesDescription') or ''} {header.get('ProtocolName') or ''}".lower()
    # The asterisk is the one sign that changes a word.
    text = text.replace("t2*", " t2star ").replace("3-plane", "3plane").replace("3 plane", "3plane")
    text = text.replace("dark-fluid", "darkfluid").replace("dark_fluid", "darkfluid")
    text = re.sub(r"\b(t[12])[ _-]?(map|star)\b", r"\1\2", re.sub(r"mp-rage", "mprage", text))
    return {word for word in re.split(r"[^0-9a-z+]+", text) if word}


def no_scan(header: pydicom.Dataset) -> str:
    """Why a series is none to be scored, in a word; "" where nothing says so."""
    stated, words = header.get("ImageType") or (), words_of(header)
    types = {str(w).upper() for w in ([stated] if isinstance(stated, str) else stated)}
    if types & {"LOCALIZER", "SCOUT"} or words & _LOCALIZER:
        return "localizer"
    if types & {"DERIVED", "SECONDARY", "MPR", "PROJECTION IMAGE", "REFORMATTED"} or (
        words & _DERIVED and "mprage" not in words
    ):
        return "derived"
    return "phase" if types & {"P", "PHASE", "PHASE MAP"} else ""


def guess_contrast(header: pydicom.Dataset) -> tuple[str, str]:
    """(T1, T1CE, T2, FLAIR, PD or another kind, "" where it is not clear; by what, in words)."""
    words = words_of(header)
    named = {_WORDS[word] for word in words if word in _WORDS}
    for kind in _STRONGER:
        if kind in named:
            return kind, "by its name"
    timed = _by_times(header)
    if len(named) == 1:
        (kind,) = named
        if timed and timed != kind:
            return "", f"named {kind}, timed as {timed}"
        why = "by its name and times" if timed else "by its name"
    elif timed and (not named or timed in named):
        kind, why = timed, "by its times"
    else:
        return "", "no word or time tells"
    if kind != "T1":
        return kind, why
    agent = str(header.get("ContrastBolusAgent") or "").strip().lower()
    given = re.sub(r"[^a-z0-9]", "", agent) not in _NO_AGENT
    if words & _AGENT or any(word in ("c+", "+c", "+gd", "+km") for word in words) or given:
        if words & _BEFORE:
            return "", "named before contrast agent, and with it"
        return "T1CE", f"{why}, with contrast agent"
    return kind, why


def _by_times(header: pydicom.Dataset) -> str:
    """The contrast of a head's usual times (ms) at 1.5 and 3 T; "" where they do not tell."""
    echo, repeat = _time(header, "EchoTime"), _time(header, "RepetitionTime")
    inversion = _time(header, "InversionTime")
    if echo is None or repeat is None:
        return ""
    if inversion and inversion > 1500 and echo >= 60:
        return "FLAIR"
    if inversion and 250 <= inversion <= 1300 and echo < 35:
        return "T1"
    spin = "SE" in (header.get("ScanningSequence") or ())
    if inversion or not spin:
        return ""
    if echo < 35 and repeat <= 1000:
        return "T1"
    if repeat >= 1800:
        return "T2" if echo >= 60 else "PD" if echo < 35 else ""
    return ""


def _time(header: pydicom.Dataset, name: str) -> float | None:
    """A time in ms, of an enhanced image too."""
    found: Any = header.get(name)
    if found is None:
        shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
        timing = shared[0].get("MRTimingAndRelatedParametersSequence") or [pydicom.Dataset()]
        modifier = shared[0].get("MRModifierSequence") or [pydicom.Dataset()]
        echoes = shared[0].get("MREchoSequence") or [pydicom.Dataset()]
        found = {
            "RepetitionTime": timing[0].get("RepetitionTime"),
            "InversionTime": modifier[0].get("InversionTimes"),
            "EchoTime": echoes[0].get("EffectiveEchoTime"),
        }[name]
    try:
        return float(found)
    except (TypeError, ValueError):
        return None

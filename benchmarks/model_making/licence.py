"""The licence of the weights, as a file beside them."""

SPDX = "CC-BY-SA-3.0"
# A notice and not the deed: the licence's own text stands at its address.
IXI = """\
Weights of the model "{name}"
SPDX-License-Identifier: CC-BY-SA-3.0

These weights, their calibration and the pictures made from the same scans are licensed under the
Creative Commons Attribution-ShareAlike 3.0 Unported License (CC BY-SA 3.0).
The licence: https://creativecommons.org/licenses/by-sa/3.0/
Its legal code, which alone binds: https://creativecommons.org/licenses/by-sa/3.0/legalcode

You may share and adapt them, for any purpose, if you
- name the source: the attribution below, a link to the licence, and whether you made changes;
- share what you make of them under the same licence, or a later version or compatible one;
- add no terms or technical measures that keep others from what the licence permits.
They come without warranties.

Attribution
The weights were trained on T1 scans of healthy volunteers of the IXI dataset, Imperial College
London, https://brain-development.org/ixi-dataset/, made available under CC BY-SA 3.0.
Changes: scans of the Hammersmith 3T scanner at 2 mm were registered, cut into slices and scaled;
networks were fitted to these slices. Lesions were painted on some scans to choose and to test.

The program that made and reads them has a licence of its own, Apache-2.0.
"""

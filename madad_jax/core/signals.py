"""The signals that a method may give, by the name of their map."""

# The three signals of the paper's table 3, the first is what the paper reports; and all combined.
SIGNALS = {
    "map": "",
    "latent_map": " (latent difference)",
    "mask_map": " (mask head)",
    "combined_map": " (signals combined)",
}
# Those that are combined, in the order in which they are added: float sums depend on it.
SINGLE = ("map", "latent_map", "mask_map")
# The same as files about scans list them (calibration.npz, model.json): their bytes depend on it.
STORED = ("map", "mask_map", "latent_map")

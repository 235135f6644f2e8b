"""The signals that a method may give, by the name of their map."""

# The three signals of the paper's table 3, the first is what the paper reports; and all combined.
SIGNALS = {
    "map": "",
    "latent_map": " (latent difference)",
    "mask_map": " (mask head)",
    "combined_map": " (signals combined)",
}
# Without the combination, which is made of these.
SINGLE = ("map", "latent_map", "mask_map")

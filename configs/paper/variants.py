"""Tables of S2 whose rows are one training a modality, scored in several ways (tables 3 and 4)."""

from configs.paper import cells, table2


def table(number, title, argument, rows, vary):
    """The table's config.

    Args:
      argument: as the table's own.
      rows: names.
      vary: (config, row) -> the signal that is scored; may change the config's inference.
    """
    preset, small, rows, modalities = cells.parse(argument, tuple(rows), table2.MODALITIES)
    modalities = cells.small_columns(small, modalities)
    c = cells.table(
        number,
        title,
        columns=table2.columns(modalities),
        rows=rows,
        data_root="" if small else "data/brats21",
        needs=table2.NEEDS,
        demo=small,
    )
    for modality in modalities:
        first = ""
        for row in rows:
            config = table2.config_of("MAD-AD", modality, preset, small)
            signal = vary(config, row)
            key = cells.add(c, row, modality, config, signal=signal, trained=first)
            first = first or key
    return c

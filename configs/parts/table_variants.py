"""Tables of S2 whose rows are one training a modality, scored in several ways (tables 3 and 4)."""

from configs.paper import table2
from configs.parts import table_cells


def table(number, title, argument, rows, vary):
    """The table's config.

    Args:
      argument: as the table's own.
      rows: names.
      vary: (config, row) -> the signal that is scored; may change the config's inference.
    """
    preset, small, rows, modalities = table_cells.parse(argument, tuple(rows), table2.MODALITIES)
    modalities = table_cells.small_columns(small, modalities)
    c = table_cells.table(
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
            key = table_cells.add(c, row, modality, config, signal=signal, trained=first)
            first = first or key
    return c

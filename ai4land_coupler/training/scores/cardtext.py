"""What every model card says."""

ONE_YEAR = """\
- **Not a forecast of change.** It is trained on the map of one year: it knows where classes sit, not how they come and
  go. From year to year its map follows the totals it is given and nothing else; a single fine cell that changes is not
  a prediction about that place."""

SEVERAL_YEARS = """\
- **Not a forecast of how much changes.** It places the change that the totals ask for; how much there is comes from
  them alone."""

NOT_FOR = """\
- **Not sub-cell shares.** A fine fraction is the probability that the cell's label is that class, given the totals of
  its coarse cell. Sums over many cells are expected areas; one cell's fraction is not the share of the cell.
- **Not decisions about parcels**, farms, owners or compliance: a fine cell is kilometres wide and, in mixed
  land, often wrong (above).
- **Not other legends.** Classes are those of the satellite product, merged as in the legend above. Pasture and grazed
  land, crop types, plantations and potential forest of LUH2 or HYDE are none of them; such states come in through a
  crosswalk and the `change` mode.
- **Not other climates.** Its climate fields are of the present. Worlds of the deep past or the far future are outside
  what it has seen, and nothing in it responds to a changed climate.
- **Not evidence about the satellite map**: errors of the map it was trained on are in the target, in the base map and
  in the scores."""

LIMITS = """\
- One product: the labels are majority classes of fine cells, with all confusions of the product they come from.
- Placement within a coarse cell is scored where no class covers 95 % of it; plain accuracy over all land flatters every
  method, the baselines too.
- Rare classes are hard: see the IoU of each class. A mean IoU over classes that cover little land moves with a few
  cells; the column `> 1 %` leaves classes under 1 % of the land out.
- Given coarser states it does less: the rows at 1 and 2 degrees say how much, beside baselines of the same state."""

"""ESMF's own apply, through esmpy."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid import esmf
from ai4land_coupler.regrid.polygons import Polygons


@contextmanager
def ways(
    source: HostGrid, target: RegularGrid, classes: int, why: dict[str, str]
) -> Iterator[dict[str, Callable[[], object]]]:
    """ESMF's apply of all classes: a field with the classes as a dimension of its own, and a field a class."""
    lacks = esmf.lacks()
    if lacks is not None:
        why["esmf"] = lacks
        yield {}
        return
    esmpy = esmf._on_self().esmpy
    cells = (
        Polygons.of(source.vertex_lon, source.vertex_lat),
        Polygons.of_cells(target, np.arange(target.size)),
    )
    with ExitStack() as objects:

        def kept(thing: Any) -> Any:
            objects.callback(esmf._destroy, thing)
            return thing

        meshes = [esmf._mesh(esmpy, kept, part, None) for part in cells]

        def regrid(**more: Any) -> tuple[Any, Any, Any]:
            on = [kept(esmpy.Field(mesh, meshloc=esmpy.MeshLoc.ELEMENT, **more)) for mesh in meshes]
            on[0].data[...] = 1.0
            made = esmpy.Regrid(
                *on, regrid_method=esmpy.RegridMethod.CONSERVE, line_type=esmpy.LineType.GREAT_CIRCLE,
                norm_type=esmpy.NormType.DSTAREA, unmapped_action=esmpy.UnmappedAction.IGNORE, ignore_degenerate=True,
            )  # fmt: skip
            return kept(made), on[0], on[1]

        one, all_at_once = regrid(), regrid(ndbounds=[classes])
        yield {
            "esmf, a class at a time": lambda: [one[0](one[1], one[2]) for _ in range(classes)],
            "esmf, all classes": lambda: all_at_once[0](all_at_once[1], all_at_once[2]),
        }

r"""Print the slide table of a public benchmark of ready-made features.

    python scripts/features_table.py camelyon16 $CAMELYON16_MIL --features UNI \
        > config/camelyon16/slides.tsv

docs/benchmarks.md says where the sets are from and how they are laid out.
"""

import argparse
import sys
from pathlib import Path

from myostage.errors import UserError
from myostage.features import ready_made
from myostage.phantom import compose


def main(arguments: argparse.Namespace) -> None:
    """Print the table of the set in ``arguments.root``."""
    source, root = ready_made.SOURCES[arguments.dataset], arguments.root
    found = ready_made.bags(arguments.dataset, root, arguments.features, arguments.patch_px)
    compose.check_names(f"{root / 'splits.csv'} names bags", [name for name, _, _ in found])
    print(f"# {arguments.dataset}, features {arguments.features}, below ${source.variable}")
    print("# the set names no patients: each bag counts as an animal of its own")
    print("slide\tpath\tgroup\tanimal\tsplit")
    for name, split, label in found:
        file = ready_made.files(arguments.dataset, root, arguments.features, name, arguments.patch_px)[0]
        path = f"${source.variable}/{Path(file).relative_to(root).as_posix()}"
        print(name, path, source.groups[label], name, split, sep="\t")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", choices=list(ready_made.SOURCES), help="the benchmark")
    parser.add_argument("root", type=Path, help="its folder, which holds splits.csv")
    parser.add_argument(
        "--features", required=True, help="name of the features: UNI, resnet50_bt; of rsna resnet50, ..."
    )
    parser.add_argument(
        "--patch-px",
        type=int,
        default=ready_made.PATCH_PX,
        help=f"side of a tile, px ({ready_made.PATCH_PX})",
    )
    try:
        main(parser.parse_args())
    except UserError as error:
        sys.exit(str(error))

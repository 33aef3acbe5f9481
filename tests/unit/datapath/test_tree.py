"""Names under the mount: they come and go, the bytes behind them do not."""

from __future__ import annotations

from nova_trusted_clone.core.integrity.manifest import Region, RegionTable
from nova_trusted_clone.datapath.tree import ROOT_INODE, Tree

TABLE = RegionTable(
    [
        Region(1, "ram", "pc.ram", 4096),
        Region(2, "ram", "/rom@etc/table", 4096),
        Region(3, "disk", "vda", 512),
        Region(4, "device", "device", 1),
    ]
)


def names(tree: Tree, inode: int) -> list[str]:
    return [name for name, _ in tree.entries(inode)]


def test_disks_appear_when_the_table_is_known() -> None:
    table = RegionTable(())
    tree = Tree(lambda: table)
    assert names(tree, ROOT_INODE) == ["disks", "ram"]
    assert tree.find(tree.disks.inode, "vda") is None
    table = TABLE
    found = tree.find(tree.disks.inode, "vda")
    assert found is not None and found.region == TABLE[3]
    assert names(tree, tree.disks.inode) == ["vda"]


def test_each_clone_has_its_own_names_of_the_same_blocks() -> None:
    tree = Tree(lambda: TABLE)
    one, two = tree.add_clone("one"), tree.add_clone("two")
    assert names(tree, one.inode) == names(tree, two.inode) == ["pc.ram"]
    assert tree.add_clone("one") is one
    assert tree.remove(one.inode, "pc.ram")
    assert (names(tree, one.inode), names(tree, two.inode)) == ([], ["pc.ram"])
    again = tree.restore_block(one, "pc.ram")
    assert again is not None and again.region == TABLE[1]
    assert tree.restore_block(one, "other") is None
    assert tree.remove(tree.ram.inode, "one")
    assert names(tree, tree.ram.inode) == ["two"]


def test_the_fixed_names_stay() -> None:
    tree = Tree(lambda: TABLE)
    tree.find(tree.disks.inode, "vda")
    for parent, name in ((ROOT_INODE, "disks"), (ROOT_INODE, "ram"), (tree.disks.inode, "vda")):
        assert not tree.remove(parent, name)
    assert tree.restore_block(tree.disks, "pc.ram") is None

"""What is asked of the disk outlives a crash, and what is taken away is what has the name."""

import os

import pytest

from llama_dist.checkpoint import disk


def test_every_new_directory_is_synced_into_the_one_it_lies_in(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(disk, "sync_directory", synced.append)
    disk.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    disk.make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2 and (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_directory_is_made_where_a_link_leads(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "run")
    disk.make_directory(tmp_path / "link")
    assert (tmp_path / "disk" / "run").is_dir() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("kept"), lambda path: None])
def test_whatever_it_is_it_is_removed_and_no_link_is_followed(tmp_path, make):
    (tmp_path / "kept").mkdir()
    make(tmp_path / "entry")
    disk.remove_entry(tmp_path / "entry")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]

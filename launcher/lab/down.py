"""Removes a lab, whole, half built or left over: processes, links, namespaces, mounts, files."""

from launcher.lab.daemons import end_recorded_daemons
from launcher.lab.layout import DEFAULT_NAME, check_name, lab_directory
from launcher.lab.mounts import unmount_below
from launcher.lab.network import found_host_files, found_namespaces, remove_network
from launcher.lab.node_processes import end_processes_in
from launcher.lab.programs import check_root
from launcher.lab.state import release_lab


def down(name: str = DEFAULT_NAME) -> bool:
    """Remove all that a lab of that name has; answers whether there was anything. Raises LabError if some of it stays.

    Its record is not needed: names follow from the lab's name, and daemons wrote themselves down before they began.
    """
    check_name(name)
    check_root()
    directory = lab_directory(name)
    if not directory.exists() and not found_namespaces(name) and not found_host_files(name):
        return False  # a link of that name alone would be another's
    for namespace in found_namespaces(name):
        end_processes_in(namespace)
    end_recorded_daemons(directory)
    remove_network(name)
    unmount_below(directory)
    release_lab(name)
    return True

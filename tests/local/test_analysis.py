"""dplyr, models, sdf_* and spark_apply by sparklyr on a local cluster: the numbers of plain R."""

import os
import sys
from pathlib import Path

import pytest

from rpicluster.cluster import Cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "r"))
from analysis import analysis, different, in_plain_r, path_without_java

pytestmark = [pytest.mark.cluster, pytest.mark.r, pytest.mark.timeout(1800)]


def test_the_same_script_finds_the_same_numbers_as_plain_r(
    cluster_with_gateway: Cluster, r_libraries: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "R_LIBS": r_libraries, "PATH": path_without_java(tmp_path / "tools")}
    found = analysis(cluster_with_gateway.name, environment, tmp_path)
    assert different(found, in_plain_r(tmp_path)) == []

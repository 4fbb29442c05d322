"""Logs of applications that ended long ago go; those of others stay."""

from tests.unit.fake_hdfs import FakeHdfs

from rpicluster.services.log_expiry import expire

BUCKET = "/logs/ada/bucket-logs-tfile/0001"
OLD_MS, YOUNG_MS = 1_000_000, 9_000_000


def with_logs() -> FakeHdfs:
    hdfs = FakeHdfs()
    hdfs.directories |= {"/logs", "/logs/ada", "/logs/ada/bucket-logs-tfile", BUCKET}
    for application, ages_ms in {"old": (OLD_MS, OLD_MS), "mixed": (OLD_MS, YOUNG_MS), "running": ()}.items():
        hdfs.directories.add(f"{BUCKET}/{application}")
        for number, modified_ms in enumerate(ages_ms):
            path = f"{BUCKET}/{application}/node{number}"
            hdfs.files[path] = b"log"
            hdfs.modified_ms[path] = modified_ms
    return hdfs


def test_logs_go_when_their_youngest_file_is_old_and_stay_while_the_application_runs() -> None:
    hdfs = with_logs()
    assert [*expire(hdfs.client(), "/logs", before_s=5000)] == [f"{BUCKET}/old"]
    assert hdfs.names() == [f"{BUCKET}/mixed/node0", f"{BUCKET}/mixed/node1"]
    assert f"{BUCKET}/running" in hdfs.directories


def test_a_cluster_that_never_logged_has_nothing_to_expire() -> None:
    assert [*expire(FakeHdfs().client(), "/logs", before_s=5000)] == []

"""Remove the container logs of applications long ended: Hadoop leaves that to its JobHistoryServer."""

from collections.abc import Iterator

from rpicluster.errors import RemoteError
from rpicluster.services.webhdfs import FileStatus, WebHdfs


def expire(hdfs: WebHdfs, directory: str, *, before_s: float) -> Iterator[str]:
    """Delete and yield the logs of each application below `directory` that wrote none since `before_s`.

    YARN keeps them as USER/bucket-logs-tfile/BUCKET/APPLICATION/NODE. An application without a file is left:
    it runs, and its NodeManagers write there when it ends. Raises RpiclusterError.
    """
    for user in _directories(hdfs, directory):
        for suffix in _directories(hdfs, user):
            for bucket in _directories(hdfs, suffix):
                for application in _directories(hdfs, bucket):
                    written_s = [status.modified_s for status in _entries(hdfs, application)]
                    if written_s and max(written_s) < before_s:
                        hdfs.delete_now(application, recursive=True)
                        yield application


def _directories(hdfs: WebHdfs, path: str) -> Iterator[str]:
    return (status.path for status in _entries(hdfs, path) if status.is_dir)


def _entries(hdfs: WebHdfs, path: str) -> list[FileStatus]:
    try:
        return hdfs.list(path)
    except RemoteError as error:
        if error.exception != "FileNotFoundException":  # removed meanwhile, or nothing was ever logged
            raise
        return []

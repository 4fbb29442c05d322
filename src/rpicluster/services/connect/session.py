"""A session on the warm driver: statements, settings, temporary views, interruption."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rpicluster.errors import RpiclusterError, SqlError, UsageError
from rpicluster.services.connect.affected import MARK, Change, changed_table, counting_query
from rpicluster.services.connect.door import Door, new_id
from rpicluster.services.connect.execution import INTERRUPT_S, Execution, SqlProgress
from rpicluster.services.connect.literals import literal
from rpicluster.services.connect.quoting import quote_identifier, quote_qualified
from rpicluster.services.connect.result import SqlResult, of_command, of_relation
from rpicluster.services.connect.types import Field, fields_of

NAMESPACE = "rpi.default"
# A table this large still fits one message beside the server's limit of 128 MiB.
TEMP_VIEW_MAX_BYTES = 64 * 1024 * 1024
CLOSE_S = 2.0


class ConnectSession:
    """One Spark session behind Spark Connect. Nothing is sent before the first statement.

    Statements of one session may run in several threads. `interrupt` may be called from any thread.
    """

    def __init__(
        self,
        *,
        port: int,
        token: str | None,
        proto_path: Path,
        user: str,
        session_id: str | None = None,
        host: str = "127.0.0.1",
        namespace: str | None = NAMESPACE,
    ) -> None:
        """Keep where the server is; statements are read in `namespace` (None: the server's own default).

        A given `session_id` continues that session, if the server still has it. Raises UsageError for a
        host that is not this machine.
        """
        self._door = Door(host=host, port=port, token=token, proto_path=proto_path, user=user)
        self.session_id = session_id or new_id()
        self._namespace = namespace
        self._is_used = False  # whether USE was said
        self._use_lock = threading.Lock()
        self._mark_lock = threading.Lock()

    def sql(
        self,
        statement: str,
        *,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        on_progress: Callable[[SqlProgress], None] | None = None,
        timeout_s: float | None = None,
        count_affected: bool = False,
    ) -> SqlResult:
        """Run one statement; a query's rows arrive while the result is read, a command is done on return.

        `params` are the values of `?` (a sequence) or of `:name` (a mapping) in the statement.
        `count_affected` asks how many rows an INSERT, DELETE or MERGE changed, which costs more calls.
        `on_progress` is called about every two seconds. An exception that leaves this call, such as
        KeyboardInterrupt, cancels the work on the cluster. Raises SqlError, SessionLost, Unreachable, or
        ServiceError for a refused token.
        """
        self._use(on_progress)
        command = self._command(statement, params)
        change = None
        if count_affected and self._namespace is not None:
            change = changed_table(statement, quote_qualified(self._namespace.split(".")))
        if change is None:
            return self._sql(command, on_progress, timeout_s)
        with self._mark_lock:  # the mark is a setting of the whole session
            mark = new_id()
            self.set_conf(**{MARK: mark})
            try:
                result = self._sql(command, on_progress, timeout_s)
            finally:
                with contextlib.suppress(RpiclusterError):  # the statement's own error says more
                    self.unset_conf(MARK)
            result.affected = self._affected(change, mark)
        return result

    def interrupt(self) -> int:
        """Cancel all that this session runs on the cluster; return how many statements that were."""
        messages = self._door.messages
        request = messages.InterruptRequest(
            interrupt_type=messages.InterruptRequest.INTERRUPT_TYPE_ALL,
            **self._door.identity(self.session_id),
        )
        return len(self._door.ask("Interrupt", request, timeout_s=INTERRUPT_S).interrupted_ids)

    def conf(self, *keys: str) -> dict[str, str | None]:
        """Return the settings of these names; None for one that is not set."""
        messages = self._door.messages
        operation = messages.ConfigRequest.Operation(
            get_option=messages.ConfigRequest.GetOption(keys=list(keys))
        )
        pairs = self._config(operation).pairs
        return {pair.key: pair.value if pair.HasField("value") else None for pair in pairs}

    def set_conf(self, **settings: str) -> None:
        """Change settings of this session: `set_conf(**{"spark.sql.session.timeZone": "UTC"})`."""
        messages = self._door.messages
        pairs = [messages.KeyValue(key=key, value=value) for key, value in settings.items()]
        self._config(messages.ConfigRequest.Operation(set=messages.ConfigRequest.Set(pairs=pairs)))

    def unset_conf(self, *keys: str) -> None:
        """Give settings of this session their default again."""
        messages = self._door.messages
        self._config(messages.ConfigRequest.Operation(unset=messages.ConfigRequest.Unset(keys=list(keys))))

    def version(self) -> str:
        """Return Spark's version."""
        request = self._analyze(spark_version=self._door.messages.AnalyzePlanRequest.SparkVersion())
        return str(request.spark_version.version)

    def app_id(self) -> str:
        """Return the id of the application in YARN."""
        return self.conf("spark.app.id")["spark.app.id"] or ""

    def schema_of(self, statement: str) -> tuple[Field, ...]:
        """Return the columns a query would give, without running it."""
        self._use(None)
        plan = self._door.messages.Plan(root=self._query(statement))
        answer = self._analyze(schema=self._door.messages.AnalyzePlanRequest.Schema(plan=plan))
        return fields_of(answer.schema.schema)

    def columns_of(self, table: str | list[str]) -> tuple[Field, ...]:
        """Return the columns of a table or view; `table` is a name or its parts, not yet quoted."""
        return self.schema_of(f"SELECT * FROM {quote_qualified(table)}")

    def create_temp_view(self, name: str, table: Any) -> None:
        """Make a pyarrow.Table readable as the temporary view `name`; it lives in the driver's memory.

        Raises UsageError for more than TEMP_VIEW_MAX_BYTES: upload a table instead.
        """
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        if data.size > TEMP_VIEW_MAX_BYTES:
            raise UsageError(
                f"{data.size / 2**20:.0f} MiB are too much for a temporary view",
                hint="rpicluster put FILE --table NAME",
            )
        messages = self._door.messages
        view = messages.CreateDataFrameViewCommand(
            name=quote_identifier(name),
            replace=True,
            input=self._relation(local_relation=messages.LocalRelation(data=data.to_pybytes())),
        )
        self._drain(messages.Plan(command=messages.Command(create_dataframe_view=view)))

    def reopen(self) -> None:
        """Start over with a fresh session on a fresh connection, after SessionLost or Unreachable."""
        self._door.close()
        self.session_id = new_id()
        self._is_used = False

    def close(self) -> None:
        """End the session on the server, with its views and settings; quiet if the server is gone."""
        if self._is_used or self._door.server_session_id:
            request = self._door.messages.ReleaseSessionRequest(**self._release_identity())
            with contextlib.suppress(RpiclusterError):
                self._door.ask("ReleaseSession", request, timeout_s=CLOSE_S)
        self._door.close()
        self._is_used = False

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def _use(self, on_progress: Callable[[SqlProgress], None] | None) -> None:
        """Say USE once. It has a round trip of its own, in whose shadow pyarrow is imported."""
        with self._use_lock:
            if self._is_used:
                return
            if self._namespace is not None:
                statement = f"USE {quote_qualified(self._namespace.split('.'))}"
                execution = Execution(
                    self._door, self.session_id, self._command(statement), on_progress=on_progress
                )
                import pyarrow  # noqa: F401  heavy: imported while the server works

                for _ in execution:
                    pass
            self._is_used = True

    def _sql(
        self,
        command: Any,
        on_progress: Callable[[SqlProgress], None] | None,
        timeout_s: float | None,
    ) -> SqlResult:
        execution = Execution(
            self._door, self.session_id, command, on_progress=on_progress, timeout_s=timeout_s
        )
        relation = None
        for answer in execution:
            if answer.HasField("sql_command_result"):
                relation = answer.sql_command_result.relation
        if relation is None:
            raise SqlError("the statement ended without a result")
        if relation.WhichOneof("rel_type") == "local_relation":
            return of_command(relation.local_relation.data)
        # Not a command: the server has only read it so far.
        plan = self._door.messages.Plan(root=relation)
        answers = iter(
            Execution(self._door, self.session_id, plan, on_progress=on_progress, timeout_s=timeout_s)
        )
        return of_relation(answers)

    def _affected(self, change: Change, mark: str) -> int | None:
        """Return how many rows changed; None if unknown, as for a table without snapshots."""
        with contextlib.suppress(SqlError):
            count = self._sql(self._command(counting_query(change, mark)), None, None).rows()[0][0]
            return None if count is None else int(count)
        return None

    def _command(self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        messages = self._door.messages
        command = messages.SqlCommand(input=self._query(statement, params))
        return messages.Plan(command=messages.Command(sql_command=command))

    def _query(self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        messages = self._door.messages
        query = messages.SQL(query=statement)
        if isinstance(params, Mapping):
            for name, value in params.items():
                query.named_arguments[name].CopyFrom(literal(messages, value))
        elif params is not None:
            query.pos_arguments.extend(literal(messages, value) for value in params)
        return self._relation(sql=query)

    def _relation(self, **kind: Any) -> Any:
        messages = self._door.messages
        return messages.Relation(common=messages.RelationCommon(plan_id=0), **kind)

    def _drain(self, plan: Any) -> None:
        self._use(None)
        for _ in Execution(self._door, self.session_id, plan):
            pass

    def _config(self, operation: Any) -> Any:
        messages = self._door.messages
        return self._door.ask(
            "Config", messages.ConfigRequest(operation=operation, **self._door.identity(self.session_id))
        )

    def _analyze(self, **what: Any) -> Any:
        messages = self._door.messages
        request = messages.AnalyzePlanRequest(**what, **self._door.identity(self.session_id))
        return self._door.ask("AnalyzePlan", request)

    def _release_identity(self) -> dict[str, Any]:
        fields = self._door.identity(self.session_id)
        fields.pop("client_observed_server_side_session_id", None)  # this request has no such field
        return fields

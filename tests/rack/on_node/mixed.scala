val until = System.currentTimeMillis + 60000
while (sc.getExecutorMemoryStatus.size < 3 && System.currentTimeMillis < until) Thread.sleep(500)
def version = System.getProperty("java.specification.version")
val factor = 3L
val scale = (x: Long) => x * factor
case class Row(key: Long, value: Long, made: java.util.ArrayList[String])
val rows = sc.range(0, 400000, 1, 16).mapPartitions { it => Thread.sleep(500); it.map { i => val made = new java.util.ArrayList[String](); made.add(version); Row(i % 97, scale(i), made) } }
val found = rows.map(row => (row.key, row)).groupByKey(16).mapPartitions { it => Thread.sleep(300); it.map { case (_, of) => (version, of.map(_.made.get(0)).toSet, of.map(_.value).sum) } }.collect()
println("total " + found.map(_._3).sum)
println("crossed " + found.groupBy(_._1).toSeq.sortBy(_._1).map { case (at, groups) => at + "<-" + groups.flatMap(_._2).distinct.sorted.mkString(",") }.mkString(" "))
:quit

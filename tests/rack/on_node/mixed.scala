val until = System.currentTimeMillis + 60000
while (sc.getExecutorMemoryStatus.size < 3 && System.currentTimeMillis < until) Thread.sleep(500)
val factor = 3L
val scale = (x: Long) => x * factor
case class Box(made: java.util.ArrayList[String])
val found = sc.range(0, 400000, 1, 16).mapPartitions { it => Thread.sleep(500); val v = System.getProperty("java.specification.version"); it.map(i => (i % 97, (scale(i), v))) }.groupByKey(16).mapPartitions { it => Thread.sleep(300); val v = System.getProperty("java.specification.version"); it.map { case (_, vs) => (v, vs.map(_._2).toSet, vs.map(_._1).sum) } }.collect()
val boxes = sc.range(0, 16, 1, 16).map { i => Thread.sleep(300); val made = new java.util.ArrayList[String](); made.add(System.getProperty("java.specification.version")); Box(made) }.collect()
println("total " + found.map(_._3).sum)
println("crossed " + found.groupBy(_._1).toSeq.sortBy(_._1).map { case (at, groups) => at + "<-" + groups.flatMap(_._2).distinct.sorted.mkString(",") }.mkString(" "))
println("objects " + boxes.map(_.made.get(0)).distinct.sorted.mkString(","))
:quit

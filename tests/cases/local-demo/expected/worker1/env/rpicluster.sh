# written by rpicluster, changes are overwritten; see plan --diff
export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64
export SPARK_HOME=/var/tmp/rpicluster-1000/3f9a11c2/runtime
export HADOOP_CONF_DIR=/var/tmp/rpicluster-1000/3f9a11c2/conf/worker1/hadoop
export SPARK_CONF_DIR=/var/tmp/rpicluster-1000/3f9a11c2/conf/worker1/spark
export PATH="$PATH:$JAVA_HOME/bin:$SPARK_HOME/bin"

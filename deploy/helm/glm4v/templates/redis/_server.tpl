{{/* A bundled server: (dict "root" $ "name" "redis" "resources" $resources "persistent" true). With a password the server
     reads its SHA-256 from a file in memory: it is in no argument and in no configuration. */}}
{{- define "glm4v.redisServer" -}}
{{- $root := .root -}}{{- $bundled := $root.Values.redis.bundled -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "glm4v.name" (list $root .name) }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "glm4v.labels" (list $root .name) | nindent 4 }}
spec:
  replicas: 1
  serviceName: {{ include "glm4v.name" (list $root .name) }}
  selector:
    matchLabels:
      {{- include "glm4v.selector" (list $root .name) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "glm4v.labels" (list $root .name) | nindent 8 }}
      annotations:
        checksum/config: {{ include "glm4v.redisConfig" . | sha256sum }}
    spec:
      {{- include "glm4v.podSpec" (list $root $bundled) | nindent 6 }}
      terminationGracePeriodSeconds: 60
      containers:
        - name: redis
          image: {{ include "glm4v.image" (list (dict "Values" (dict "image" (dict)) "Chart" $root.Chart) $bundled.image) | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- if $root.Values.redis.existingSecret }}
          command: [sh, -c]
          args:
            - |
              digest=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d' ' -f1)
              printf 'user default on #%s ~* &* +@all\n' "$digest" > /run/valkey/users.acl
              unset REDIS_PASSWORD
              exec valkey-server /etc/valkey/valkey.conf --aclfile /run/valkey/users.acl
          env:
            - name: REDIS_PASSWORD
              valueFrom:
                secretKeyRef: {name: {{ $root.Values.redis.existingSecret | quote }}, key: {{ $root.Values.redis.passwordKey | quote }}}
          {{- else }}
          command: [valkey-server, /etc/valkey/valkey.conf]
          {{- end }}
          ports:
            - {name: redis, containerPort: 6379}
          # By TCP: a server that loads its file answers no command yet, and one that waits for its disk must not be killed.
          startupProbe:
            tcpSocket: {port: redis}
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            tcpSocket: {port: redis}
            periodSeconds: 10
            failureThreshold: 6
          readinessProbe:
            tcpSocket: {port: redis}
            periodSeconds: 2
          {{- include "glm4v.containerSecurity" $root | nindent 10 }}
          resources:
            {{- toYaml .resources | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: config, mountPath: /etc/valkey, readOnly: true}
            - {name: run, mountPath: /run/valkey}
      volumes:
        - name: config
          configMap: {name: {{ include "glm4v.name" (list $root .name) }}}
        - name: run
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
        {{- if not .persistent }}
        - name: data
          emptyDir: {}
        {{- end }}
  {{- if .persistent }}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "glm4v.selector" (list $root .name) | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $bundled.storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests: {storage: {{ $bundled.storage | quote }}}
  {{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "glm4v.name" (list $root .name) }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "glm4v.labels" (list $root .name) | nindent 4 }}
data:
  valkey.conf: |
    {{- include "glm4v.redisConfig" . | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "glm4v.name" (list $root .name) }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "glm4v.labels" (list $root .name) | nindent 4 }}
spec:
  type: ClusterIP
  selector:
    {{- include "glm4v.selector" (list $root .name) | nindent 4 }}
  ports:
    - {name: redis, port: 6379, targetPort: redis}
{{- end -}}

{{- define "glm4v.redisConfig" -}}
{{- $bundled := .root.Values.redis.bundled -}}
bind * -::*
port 6379
protected-mode no
dir /data
save ""
{{- if .persistent }}
appendonly yes
appendfsync {{ $bundled.appendFsync }}
maxmemory {{ $bundled.maxMemory }}
maxmemory-policy volatile-lru
{{- else }}
appendonly no
maxmemory {{ $bundled.embeddings.maxMemory }}
maxmemory-policy allkeys-lru
{{- end }}
{{- end -}}
